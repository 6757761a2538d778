"""Conversations: how they are kept, found, renamed, exported, and shown in several tabs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.chat_page import ChatPage
from support.scripted_engine import Script


def titles(chat: ChatPage) -> list[str]:
    """Return the titles in the list of conversations."""
    found: list[str] = chat.page.get_by_role("navigation").get_by_role("link").all_inner_texts()
    return found


def test_conversations_are_listed_and_opened(chat: ChatPage) -> None:
    chat.send("First question")
    chat.button("New conversation").click()
    chat.send("Second question")
    assert titles(chat) == ["Second question", "First question"]
    chat.conversation("First question").click()
    chat.answer.get_by_text("You said: First question").wait_for()
    chat.page.go_back()
    chat.answer.get_by_text("You said: Second question").wait_for()


def test_search_finds_words_of_messages(chat: ChatPage, script: Script) -> None:
    script.answers = ["An apple is a fruit.", "A carrot is a vegetable."]
    chat.send("First")
    chat.button("New conversation").click()
    chat.send("Second")
    chat.page.keyboard.press("Control+k")
    chat.page.keyboard.type("FRUIT apple")
    chat.conversation("Second").wait_for(state="detached")
    assert titles(chat) == ["First"]
    chat.page.get_by_label("Search conversations").fill("nothing like this")
    chat.page.get_by_text("Nothing found.").wait_for()


def test_conversations_are_renamed_pinned_and_deleted(chat: ChatPage) -> None:
    chat.send("First")
    chat.button("New conversation").click()
    chat.send("Second")
    chat.act("First", "Pin")
    chat.page.get_by_role("region", name="Pinned").get_by_role("link", name="First").wait_for()
    assert titles(chat) == ["First", "Second"]

    chat.act("First", "Rename")
    chat.page.get_by_label("Name", exact=True).fill("A better name")
    chat.page.keyboard.press("Enter")
    chat.conversation("A better name").wait_for()

    chat.act("Second", "Delete")
    chat.button("Cancel").click()
    chat.act("Second", "Delete")
    chat.button("Delete", chat.page.get_by_role("dialog")).click()
    chat.conversation("Second").wait_for(state="detached")
    chat.page.get_by_text("What can I help with?").wait_for()  # it was open
    chat.page.reload()
    chat.conversation("A better name").wait_for()
    assert titles(chat) == ["A better name"]


def exported(chat: ChatPage, action: Callable[[], None], folder: Path) -> Path:
    """Return the file that an action saves."""
    with chat.page.expect_download() as download:
        action()
    path = folder / str(download.value.suggested_filename)
    download.value.save_as(path)
    return path


def import_file(chat: ChatPage, path: Path) -> None:
    """Import a file in the settings."""
    chat.button("Settings").click()
    with chat.page.expect_file_chooser() as chooser:
        chat.button("Import JSON or Markdown").click()
    chooser.value.set_files(path)
    chat.page.get_by_text("Imported conversations: 1").wait_for()
    chat.button("Close").click()


def test_json_keeps_all_branches(
    chat: ChatPage, open_page: Callable[..., ChatPage], script: Script, tmp_path: Path
) -> None:
    script.answers = ["first", "second"]
    chat.send("Question")
    chat.button("Answer again", chat.answer).click()
    chat.answer.get_by_text("second").wait_for()
    chat.wait_for_end()
    path = exported(chat, lambda: chat.act("Question", "Export as JSON"), tmp_path)
    assert path.name == "Question.json"
    assert len(json.loads(path.read_text("utf-8"))["messages"]) == 3

    other = open_page()
    import_file(other, path)
    other.conversation("Question").click()
    other.answer.get_by_text("second").wait_for()
    other.button("Previous version", other.answer).click()
    other.answer.get_by_text("first").wait_for()


def test_markdown_is_readable_and_comes_back(
    chat: ChatPage, open_page: Callable[..., ChatPage], script: Script, tmp_path: Path
) -> None:
    text = "Two lines\n\n## A heading\n\n<!-- llamafw:user -->\nnot a message"
    script.answers = [f"<think>\nHm.\n</think>\n\n{text}"]
    chat.send("Question")
    path = exported(chat, lambda: chat.act("Question", "Export as Markdown"), tmp_path)
    written = path.read_text("utf-8")
    assert "# Question" in written
    assert "## Assistant\n\nTwo lines" in written

    other = open_page()
    import_file(other, path)
    other.conversation("Question").click()
    other.answer.get_by_text("not a message").wait_for()
    assert other.answers.count() == other.questions.count() == 1
    other.button("Show as text", other.answer).click()
    assert other.answer.locator(".plain").inner_text() == text
    assert other.answer.get_by_text("Reasoning", exact=True).is_visible()


def test_other_files_are_refused_in_words(chat: ChatPage, tmp_path: Path) -> None:
    path = tmp_path / "notes.md"
    path.write_text("# Notes")
    chat.button("Settings").click()
    with chat.page.expect_file_chooser() as chooser:
        chat.button("Import JSON or Markdown").click()
    chooser.value.set_files(path)
    chat.page.get_by_text("notes.md cannot be imported").wait_for()


def test_draft_survives_a_reload_and_belongs_to_its_conversation(chat: ChatPage) -> None:
    chat.send("First")
    chat.message.fill("not sent yet")
    chat.button("New conversation").click()
    chat.page.get_by_text("What can I help with?").wait_for()
    assert chat.message.input_value() == ""
    chat.message.fill("another one")
    chat.page.reload()
    assert chat.message.input_value() == "another one"
    chat.conversation("First").click()
    chat.answer.wait_for()
    assert chat.message.input_value() == "not sent yet"


def test_answer_goes_on_after_a_reload(chat: ChatPage, script: Script) -> None:
    script.answers = ["one two three four"]
    script.hold()
    chat.send("Count", wait=False)
    script.allow(5)
    chat.answer.get_by_text("one two").wait_for()
    chat.page.reload()
    chat.answer.get_by_text("one two").wait_for()
    script.release()
    chat.answer.get_by_text("one two three four").wait_for()
    chat.wait_for_end()
    assert len(script.prompts) == 1


def test_answer_is_kept_if_the_server_has_forgotten_its_stream(chat: ChatPage, script: Script) -> None:
    script.answers = ["one two three four", " three four"]
    script.hold()
    chat.send("Count", wait=False)
    script.allow(5)
    chat.answer.get_by_text("one two").wait_for()
    chat.expected.append("status of 404")
    chat.page.context.route("**/v1/stream**", lambda route: route.fulfill(status=404, json={"error": {}}))
    chat.page.reload()
    chat.answer.get_by_text("The connection ended before the answer was complete.").wait_for()
    script.release()
    chat.button("Try again", chat.answer).click()
    chat.answer.get_by_text("one two three four").wait_for()
    chat.wait_for_end()


def test_tabs_show_the_same_conversation(open_page: Callable[..., ChatPage], script: Script) -> None:
    first = open_page()
    first.send("From the first tab")
    second = open_page(first)
    second.conversation("From the first tab").click()
    second.answer.get_by_text("You said: From the first tab").wait_for()

    script.answers = ["slowly written text"]
    script.hold()
    first.send("Next", wait=False)
    second.questions.get_by_text("Next").wait_for()
    script.release()
    second.answer.get_by_text("slowly written text").wait_for()
    second.wait_for_end()
    second.send("From the second tab")
    first.answer.get_by_text("You said: From the second tab").wait_for()
    assert len(script.prompts) == 3  # no tab asks again for the answer of the other

    second.act("From the first tab", "Delete")
    second.button("Delete", second.page.get_by_role("dialog")).click()
    first.page.get_by_text("What can I help with?").wait_for()


def long_conversation(n: int) -> dict[str, Any]:
    """Return the export of a conversation with n messages."""
    messages = [
        {
            "id": f"m{i}",
            "conversation": "c",
            "parent": f"m{i - 1}" if i else None,
            "role": "assistant" if i % 2 else "user",
            "content": f"Message **{i}** with `code`\n\n```js\nlet x = {i};\n```" if i % 2 else f"Message {i}",
            "created": i,
            "status": "done",
        }
        for i in range(n)
    ]
    conversation = {
        **{"id": "c", "title": "Long", "created": 0, "updated": 0, "pinned": False, "leaf": f"m{n - 1}"},
        **{"system": "", "options": {}},
    }
    return {"format": "llamafw-conversations", "version": 1, "conversations": [conversation], "messages": messages}


def test_500_messages_are_shown_step_by_step(chat: ChatPage, script: Script, tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    path.write_text(json.dumps(long_conversation(500)))
    import_file(chat, path)
    chat.conversation("Long").click()
    chat.page.get_by_text("Message 499").wait_for()
    articles = chat.page.get_by_role("article")
    assert articles.count() == 40
    script.n_ctx = 1 << 20
    chat.send("Go on")
    assert "You said: Go on" in chat.answer.inner_text()
    assert "Message 498" in script.prompts[0]

    chat.page.get_by_role("region", name="Conversation").evaluate("element => { element.scrollTop = 0 }")
    articles.nth(79).wait_for()
    while chat.page.get_by_role("button", name="Show earlier messages").count():
        n = articles.count()
        chat.page.get_by_role("region", name="Conversation").evaluate("element => { element.scrollTop = 0 }")
        articles.nth(min(501, n)).wait_for()
    assert articles.count() == 502
    chat.page.get_by_text("Message 0", exact=True).wait_for()
    chat.button("Jump to the end").click()
    chat.button("Jump to the end").wait_for(state="detached")


def test_page_works_without_a_database(chat: ChatPage) -> None:
    chat.page.add_init_script("Object.defineProperty(window, 'indexedDB', {value: undefined})")
    chat.page.reload()
    chat.page.get_by_text("This browser does not store conversations.").wait_for()
    chat.send("Hello")
    assert "You said: Hello" in chat.answer.inner_text()
