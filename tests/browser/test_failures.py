"""Errors: each is explained in words, offers a way out, and loses no text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llamafw import TooManyRequests
from support.chat_page import ChatPage
from support.page_server import PageServer, page_server
from support.scripted_engine import Script


@pytest.fixture(scope="module")
def server(browser: Any, chat_model: Path) -> Iterator[PageServer]:
    """A server with a key, below a prefix."""
    with page_server(chat_model, api_key=("secret",), api_prefix="/models/chat") as server:
        server.url += "/models/chat"
        yield server


def enter_key(chat: ChatPage, key: str) -> None:
    """Fill the dialog that asks for the key."""
    chat.page.get_by_role("dialog", name="API key").get_by_label("API key", exact=True).last.fill(key)
    chat.button("Save").click()


@pytest.fixture
def with_key(chat: ChatPage) -> ChatPage:
    """The page, with the key."""
    chat.button("Settings").click()
    chat.button("API key").click()
    enter_key(chat, "secret")
    chat.expected.append("status of 401")  # of /props, before
    return chat


def test_key_is_asked_for_and_the_message_is_sent_again(chat: ChatPage, script: Script) -> None:
    chat.expected.append("status of 401")
    chat.send("Do not lose this")
    dialog = chat.page.get_by_role("dialog", name="API key")
    refusal = dialog.get_by_text("The server does not accept this key.")
    dialog.wait_for()
    assert refusal.count() == 0
    dialog.get_by_label("Keep the key in this browser").check()
    enter_key(chat, "wrong")
    refusal.wait_for()
    assert dialog.get_by_label("Keep the key in this browser").is_checked()
    dialog.get_by_label("Keep the key in this browser").uncheck()
    enter_key(chat, "secret")
    chat.answer.get_by_text("You said: Do not lose this").wait_for()
    assert chat.questions.count() == chat.answers.count() == 1
    chat.page.reload()
    chat.send("Again")
    assert "You said: Again" in chat.answer.inner_text()


def test_key_dialog_can_be_left_and_opened_again(chat: ChatPage, script: Script) -> None:
    chat.expected.append("status of 401")
    chat.send("Keep me")
    chat.page.keyboard.press("Escape")
    chat.answer.get_by_text("The server needs an API key, or the key is wrong.").wait_for()
    chat.page.reload()
    chat.button("Enter key", chat.answer).click()
    enter_key(chat, "secret")
    chat.answer.get_by_text("You said: Keep me").wait_for()


def test_key_is_kept_for_other_tabs_only_if_wanted(chat: ChatPage, open_page: Callable[..., ChatPage]) -> None:
    chat.expected.append("status of 401")
    chat.send("Hello")
    enter_key(chat, "secret")
    chat.answer.get_by_text("You said: Hello").wait_for()
    other = open_page(chat)
    other.expected.append("status of 401")
    other.send("Hello")
    dialog = other.page.get_by_role("dialog", name="API key")
    dialog.get_by_label("Keep the key in this browser").check()
    enter_key(other, "secret")
    other.answer.get_by_text("You said: Hello").wait_for()
    third = open_page(chat)
    third.send("Third")
    third.answer.get_by_text("You said: Third").wait_for()


def test_busy_server_says_when_to_try_again(with_key: ChatPage, script: Script) -> None:
    with_key.expected.append("status of 429")
    script.answers = [TooManyRequests("the queue is full", 30), "Now it works."]
    with_key.send("Hello")
    with_key.answer.get_by_text("The server is busy with other requests. Try again in").wait_for()
    with_key.button("Try again", with_key.answer).click()
    with_key.answer.get_by_text("Now it works.").wait_for()
    assert with_key.answers.count() == 1
    assert with_key.answer.get_by_role("group", name="Version").count() == 0  # the failure is no version


def test_full_context_offers_to_leave_out_the_oldest_text(with_key: ChatPage, script: Script) -> None:
    with_key.expected.append("status of 400")
    script.n_ctx = 12
    with_key.send("A message that is longer than the context")
    with_key.answer.get_by_text("The conversation is longer than the model's context.").wait_for()
    with_key.button("Answer without the oldest text", with_key.answer).click()
    with_key.answer.get_by_text("You said:").wait_for()
    with_key.wait_for_end()
    assert script.requests[-1].truncate_prompt
    with_key.answer.get_by_text("the model no longer sees the oldest part").wait_for()
    with_key.button("Start a new conversation", with_key.answer).click()
    with_key.page.get_by_text("What can I help with?").wait_for()


def test_cut_answer_can_be_continued(with_key: ChatPage, script: Script) -> None:
    with_key.show_panel("Sampling")
    with_key.page.get_by_role("spinbutton", name="n_predict").fill("2")
    script.answers = ["one two three", " three"]
    with_key.send("Count")
    notice = with_key.answer.locator(".notice")
    assert "reached its limit of tokens" in notice.inner_text()
    notice.get_by_role("button", name="Continue").click()
    with_key.answer.get_by_text("one two three").wait_for()


def test_refused_option_can_be_reset(with_key: ChatPage, script: Script) -> None:
    with_key.expected.append("status of 400")
    with_key.show_panel("Sampling")
    with_key.page.get_by_label("Filter options").fill("tool_choice")
    with_key.page.get_by_label("tool_choice", exact=True).fill('"sometimes"')
    with_key.send("Hello")
    with_key.answer.get_by_text("The server did not accept the request:").wait_for()
    with_key.button("Reset tool_choice", with_key.answer).click()
    with_key.answer.get_by_text("You said: Hello").wait_for()
    assert with_key.page.get_by_label("tool_choice", exact=True).input_value() == ""


def test_server_that_fails_is_explained(with_key: ChatPage, script: Script) -> None:
    with_key.expected.append("status of 500")
    script.answers = [RuntimeError("secret place")]
    with_key.send("Hello")
    failure = with_key.answer.get_by_text("The server failed:")
    failure.wait_for()
    assert "secret" not in failure.inner_text()
    with_key.button("Try again", with_key.answer).click()
    with_key.answer.get_by_text("You said: Hello").wait_for()


def test_server_that_is_away_is_explained(with_key: ChatPage, script: Script) -> None:
    with_key.expected.append("ERR_INTERNET_DISCONNECTED")
    with_key.page.context.set_offline(True)
    with_key.send("Hello")
    with_key.answer.get_by_text("The server cannot be reached.").wait_for()
    with_key.page.context.set_offline(False)
    with_key.button("Try again", with_key.answer).click()
    with_key.answer.get_by_text("You said: Hello").wait_for()


def test_message_without_an_answer_can_be_answered(with_key: ChatPage, script: Script) -> None:
    with_key.expected.append("ERR_FAILED")
    with_key.page.route("**/chat/completions", lambda route: route.abort())
    with_key.send("Hello")
    with_key.answer.get_by_text("The server cannot be reached.").wait_for()
    with_key.page.unroute("**/chat/completions")
    with_key.page.reload()
    with_key.button("Try again", with_key.answer).click()
    with_key.answer.get_by_text("You said: Hello").wait_for()
