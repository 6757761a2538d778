"""Escape closes only what opened last: a menu, a tooltip, a dialog, a column that covers the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.chat_page import PHONE, ChatPage
from support.scripted_engine import Script


@pytest.fixture
def phone(open_page: Callable[..., ChatPage], script: Script) -> ChatPage:
    """The page on a phone, with one conversation."""
    chat = open_page(viewport=PHONE)
    chat.send("Hello")
    return chat


def navigation(chat: ChatPage) -> Any:
    """Return the list of conversations."""
    return chat.page.get_by_role("navigation")


def focused(chat: ChatPage) -> str:
    """Return the label of the element that has the focus."""
    label: str = chat.page.evaluate("document.activeElement.getAttribute('aria-label')")
    return label


def test_escape_closes_only_the_menu_of_a_conversation(phone: ChatPage) -> None:
    phone.button("Show conversations").click()
    phone.button("Actions for “Hello”").click()
    phone.button("Rename").focus()
    phone.page.keyboard.press("Escape")
    phone.button("Rename").wait_for(state="detached")
    assert navigation(phone).count() == 1
    assert focused(phone) == "Actions for “Hello”"
    phone.page.keyboard.press("Escape")
    navigation(phone).wait_for(state="detached")


def test_click_elsewhere_closes_the_menu_of_a_conversation(chat: ChatPage) -> None:
    chat.send("Hello")
    chat.button("Actions for “Hello”").click()
    chat.button("Rename").wait_for()
    chat.message.click()
    chat.button("Rename").wait_for(state="detached")


def test_escape_closes_only_the_dialog_of_a_menu(phone: ChatPage) -> None:
    phone.button("Show conversations").click()
    phone.act("Hello", "Rename")
    phone.page.get_by_role("dialog").wait_for()
    phone.page.keyboard.press("Escape")
    phone.page.get_by_role("dialog").wait_for(state="detached")
    assert navigation(phone).count() == 1


def test_escape_empties_a_search_before_it_hides_the_conversations(phone: ChatPage) -> None:
    phone.page.keyboard.press("Control+k")
    field = phone.page.get_by_label("Search conversations")
    field.fill("nothing like this")
    field.press("Escape")
    phone.conversation("Hello").wait_for()
    assert field.input_value() == ""
    field.press("Escape")
    navigation(phone).wait_for(state="detached")


def test_escape_closes_only_the_list_of_a_select(phone: ChatPage) -> None:
    phone.button("Show options").click()
    phone.page.get_by_label("Filter options").fill("samplers")
    phone.page.locator("#option-samplers").focus()
    phone.page.keyboard.press("Alt+ArrowDown")
    phone.page.locator("select:open").wait_for()
    phone.page.keyboard.press("Escape")
    phone.page.locator("select:open").wait_for(state="detached")
    assert phone.page.get_by_role("tabpanel").count() == 1


def test_escape_hides_the_alternatives_of_a_token_before_it_stops_an_answer(chat: ChatPage, script: Script) -> None:
    chat.button("Settings").click()
    chat.page.get_by_label("Ask for the probability of each token").check()
    chat.button("Close").click()
    script.answers = ["one two", "three four"]
    chat.send("Count")
    chat.button("Show tokens", chat.answer).click()
    token = chat.answers.first.locator(".token").first
    script.hold()
    chat.send("Go on", wait=False)
    token.focus()
    chat.page.get_by_role("tooltip").wait_for()
    chat.page.keyboard.press("Escape")
    chat.page.get_by_role("tooltip").wait_for(state="detached")
    assert chat.page.get_by_role("button", name="Stop").count() == 1
    chat.page.keyboard.press("Escape")
    chat.answer.get_by_text("You stopped this answer.").wait_for()
    script.release()


def test_escape_that_ends_a_composition_does_nothing_else(chat: ChatPage, script: Script) -> None:
    """Input methods for Chinese, Japanese and Korean use Escape to give up a word."""
    script.hold()
    chat.send("Hello", wait=False)
    press = "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape', bubbles: true, %s}))"
    chat.message.focus()
    chat.page.evaluate(press % "isComposing: true")
    assert chat.page.get_by_role("button", name="Stop").count() == 1
    chat.page.evaluate(press % "isComposing: false")
    chat.wait_for_end()
    script.release()


def test_only_one_column_covers_the_page(phone: ChatPage) -> None:
    phone.button("Show options").click()
    phone.page.keyboard.press("Control+k")
    navigation(phone).wait_for()
    assert phone.page.get_by_role("tabpanel").count() == 0
    phone.page.keyboard.press("Control+Alt+o")
    phone.page.get_by_role("tabpanel").wait_for()
    assert navigation(phone).count() == 0


# Returns whether the element in the middle of a notification is the notification.
ON_TOP = """element => {
  const {x, y, width, height} = element.getBoundingClientRect();
  return document.elementFromPoint(x + width / 2, y + height / 2) === element;
}"""


@pytest.mark.parametrize("size", [{"width": 1280, "height": 800}, PHONE], ids=["desktop", "phone"])
def test_notification_is_above_an_open_dialog(
    open_page: Callable[..., ChatPage], size: dict[str, int], tmp_path: Any
) -> None:
    chat = open_page(viewport=size)
    (tmp_path / "notes.md").write_text("# Notes")
    if size == PHONE:
        chat.button("Show conversations").click()
    chat.button("Settings").click()
    with chat.page.expect_file_chooser() as chooser:
        chat.button("Import JSON or Markdown").click()
    chooser.value.set_files(tmp_path / "notes.md")
    notification = chat.page.get_by_role("dialog").get_by_role("status").get_by_text("notes.md cannot be imported")
    notification.wait_for()
    assert notification.evaluate(ON_TOP)
    notification.click()
    chat.page.get_by_text("notes.md cannot be imported").wait_for(state="detached")
    assert chat.page.get_by_role("dialog").count() == 1


def test_notification_stays_when_the_dialog_is_closed(chat: ChatPage, tmp_path: Any) -> None:
    (tmp_path / "notes.md").write_text("# Notes")
    chat.button("Settings").click()
    with chat.page.expect_file_chooser() as chooser:
        chat.button("Import JSON or Markdown").click()
    chooser.value.set_files(tmp_path / "notes.md")
    chat.page.get_by_text("notes.md cannot be imported").wait_for()
    chat.page.keyboard.press("Escape")
    chat.page.get_by_role("dialog").wait_for(state="detached")
    notification = chat.page.get_by_text("notes.md cannot be imported")
    assert notification.is_visible()
    assert notification.evaluate(ON_TOP)
