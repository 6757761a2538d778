"""Tools of the page: they run after a question, their results go back to the model, and plugins add more."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.chat_page import ChatPage
from support.page_server import PageServer, page_server
from support.scripted_engine import Script

MANUAL = Path(__file__).parents[2] / "docs/plugins/webui.md"


@pytest.fixture(scope="module")
def server(browser: Any, chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """A server with the plugin of the manual, which adds a tool."""
    folder = tmp_path_factory.mktemp("plugin")
    block = re.search(r"^```python\n(# word_count\.py\n.*?)^```", MANUAL.read_text("utf-8"), re.S | re.M)
    assert block
    (folder / "word_count.py").write_text(block[1], "utf-8")
    sys.path.insert(0, str(folder))
    try:
        with page_server(chat_model, plugin=("word_count",)) as server:
            yield server
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("word_count", None)


def offer(chat: ChatPage, *names: str) -> None:
    """Offer tools to the model."""
    chat.show_panel("Tools")
    for name in names:
        chat.page.get_by_label(name, exact=True).check()


def call(tool: str, **arguments: Any) -> str:
    """Return the call of a tool, as a model of the test writes it."""
    return f"<tool_call>\n{json.dumps({'name': tool, 'arguments': arguments})}\n</tool_call>"


def responses(prompt: str) -> list[str]:
    """Return the results of tools in a prompt."""
    return re.findall(r"<tool_response>\n(.*?)\n</tool_response>", prompt, re.S)


def test_tool_runs_after_a_question(chat: ChatPage, script: Script) -> None:
    offer(chat, "calculate")
    script.answers = [call("calculate", expression="6 * 7"), "It is 42."]
    chat.send("What is 6 times 7?")
    assert '"name": "calculate"' in script.prompts[0]
    assert "get_current_time" not in script.prompts[0]
    question = chat.answer.get_by_role("group", name="Run calculate in this page")
    question.get_by_role("button", name="Run", exact=True).click()
    chat.answer.get_by_text("It is 42.").wait_for()
    assert responses(script.prompts[1]) == ["42"]
    assert chat.page.get_by_role("article", name="Tool result").locator(".plain").inner_text() == "42"

    script.answers = [call("calculate", expression="1 + 1"), "2"]
    chat.send("And 1 + 1?")
    question.get_by_role("button", name="Run", exact=True).wait_for()  # it asks again
    assert len(script.prompts) == 3


def test_tool_that_is_always_allowed_runs_without_a_question(chat: ChatPage, script: Script) -> None:
    offer(chat, "calculate")
    script.answers = [call("calculate", expression="2^10"), "1024", call("calculate", expression="10 % 4"), "2"]
    chat.send("First")
    chat.button("Always in this conversation").click()
    chat.answer.get_by_text("1024").wait_for()
    chat.wait_for_end()
    chat.send("Second", wait=False)
    chat.page.get_by_role("article", name="Tool result").nth(1).wait_for()
    chat.answer.get_by_text("2", exact=True).wait_for()
    chat.wait_for_end()
    assert responses(script.prompts[3])[-1] == "2"

    chat.button("Ask again").click()
    script.answers = [call("calculate", expression="1")]
    chat.send("Third")
    chat.button("Run").wait_for()

    chat.button("New conversation").click()
    script.answers = [call("calculate", expression="1")]
    chat.send("In another conversation")
    chat.button("Always in this conversation").wait_for()


def test_refused_call_is_told_to_the_model(chat: ChatPage, script: Script) -> None:
    offer(chat, "get_current_time")
    script.answers = [call("get_current_time"), "Then I do not know."]
    chat.send("What time is it?")
    chat.button("Refuse").click()
    chat.answer.get_by_text("Then I do not know.").wait_for()
    assert responses(script.prompts[1]) == ["The user did not allow this call."]


def test_results_are_sent_when_all_calls_have_one(chat: ChatPage, script: Script) -> None:
    offer(chat, "calculate", "get_current_time")
    script.answers = [
        f"{call('calculate', expression='1/0')}\n{call('get_current_time', timezone='Asia/Tokyo')}",
        "Done.",
    ]
    chat.send("Both")
    chat.button("Run", chat.page.get_by_role("region", name="Call of calculate")).click()
    chat.answer.get_by_text("Infinity").wait_for()
    assert len(script.prompts) == 1
    chat.button("Run", chat.page.get_by_role("region", name="Call of get_current_time")).click()
    chat.answer.get_by_text("Done.").wait_for()
    first, second = responses(script.prompts[1])
    assert first == "Infinity"
    assert re.fullmatch(r"\w+, \d+ \w+ 20\d\d at \d\d:\d\d:\d\d \S+ \(Asia/Tokyo\)", second)


CALCULATIONS = {
    "1 + 2 * 3": 7.0,
    "-2^2": -4.0,
    "2^3^2": 512.0,
    "2 ** -1": 0.5,
    "(1 + 2) * (3 - 4) / 4": -0.75,
    "17 % 5": 2.0,
    "1.5e3 - .5": 1499.5,
    "sqrt(2) * PI": math.sqrt(2) * math.pi,
    "max(1, ln(e^3), log(100))": 3.0,
    "round(2.6) + floor(-1.5) + abs(-3)": 4.0,
}
MISTAKES = {
    "2 +": "a number was expected, not the end",
    "(1": ") was expected before the end",
    "1 2": "the end was expected before 2",
    "alert(1)": "a number was expected, not alert",
    "constructor": "a number was expected, not constructor",
    "sqrt(-1)": "the expression has no real value",
    "1; 2": '";" is not understood',
    "1" * 1001: "the expression is longer than 1000 characters",
}


def test_calculator_knows_precedence_and_functions(chat: ChatPage, script: Script) -> None:
    offer(chat, "calculate")
    script.answers = ["\n".join(call("calculate", expression=each) for each in [*CALCULATIONS, *MISTAKES]), "Done."]
    chat.send("Calculate")
    chat.button("Always in this conversation").click()  # runs all calls
    chat.answer.get_by_text("Done.").wait_for()
    results = responses(script.prompts[1])
    values = [float(result) for result in results[: len(CALCULATIONS)]]
    assert values == pytest.approx([*CALCULATIONS.values()], rel=1e-14)
    assert results[len(CALCULATIONS) :] == [f"Error: {message}" for message in MISTAKES.values()]


def test_long_files_are_read_in_parts(chat: ChatPage, script: Script, tmp_path: Path) -> None:
    offer(chat, "read_attached_file")
    (tmp_path / "log.txt").write_text("\n".join(f"line {i}" for i in range(1, 501)))
    with chat.page.expect_file_chooser() as chooser:
        chat.button("Attach files").click()
    chooser.value.set_files(tmp_path / "log.txt")
    chat.button("Remove log.txt").wait_for()
    calls: list[dict[str, Any]] = [
        {"name": "log.txt"},
        {"name": "log.txt", "first_line": 400, "find": "LINE 49"},
        {"name": "other.txt"},
    ]
    script.answers = ["\n".join(call("read_attached_file", **each) for each in calls), "Done."]
    chat.send("Look for errors")
    assert "File log.txt: 500 lines. Read it with read_attached_file.\n\nLook for errors" in script.prompts[0]
    assert "line 17" not in script.prompts[0]
    chat.button("Always in this conversation").click()
    chat.answer.get_by_text("Done.").wait_for()
    first, second, third = responses(script.prompts[1])
    assert first.split("\n")[:2] == ["200 of 500 lines of log.txt. Continue with first_line 201.", "1: line 1"]
    assert first.endswith("\n200: line 200")
    assert second.split("\n") == ["10 of 500 lines of log.txt.", *(f"{i}: line {i}" for i in range(490, 500))]
    assert third == "Error: no file is named other.txt. Files: log.txt"


SLOW_TOOL = """export default (page) => page.addTool({
  name: "look_up",
  description: "Look something up.",
  parameters: {type: "object"},
  run: () => new Promise((resolve) => { window.finish = resolve; }),
});"""


def test_result_of_a_slow_tool_can_be_sent_later(chat: ChatPage, script: Script) -> None:
    module = {"content_type": "text/javascript", "body": SLOW_TOOL}
    chat.page.route("**/word-count.js", lambda route: route.fulfill(**module))
    chat.page.reload()
    offer(chat, "look_up")
    script.answers = [call("look_up"), "Found."]
    chat.send("Look")
    chat.button("Run").click()
    chat.answer.get_by_text("look_up is running…").wait_for()
    chat.button("New conversation").click()
    chat.page.get_by_text("What can I help with?").wait_for()
    chat.page.evaluate("finish({pages: 3})")
    chat.conversation("Look").click()
    chat.button("Send results").click()
    chat.answer.get_by_text("Found.").wait_for()
    assert responses(script.prompts[1]) == ['{"pages":3}']


def test_tools_do_not_run_for_ever(chat: ChatPage, script: Script) -> None:
    offer(chat, "calculate")
    script.answers = [call("calculate", expression=str(i)) for i in range(20)]
    chat.send("Go on and on")
    chat.button("Always in this conversation").click()
    chat.page.get_by_role("article", name="Tool result").nth(9).wait_for()
    chat.button("Run").wait_for()
    chat.wait_for_end()
    assert len(script.prompts) == 11


def test_tool_of_a_plugin_is_offered(chat: ChatPage, script: Script) -> None:
    offer(chat, "count_words")
    script.answers = [call("count_words", text="one two three"), "Three."]
    chat.send("How many words?")
    chat.button("Run").click()
    chat.answer.get_by_text("Three.").wait_for()
    assert responses(script.prompts[1]) == ["3"]


def test_plugin_of_the_manual_counts_and_quotes(chat: ChatPage, script: Script) -> None:
    chat.send("one two three")
    chat.show_panel("Words")
    chat.page.get_by_role("tabpanel").get_by_text("Words: 8").wait_for()  # "You said: " and the message, twice
    chat.button("Quote", chat.questions.last).click()
    assert chat.message.input_value() == "> one two three"


def test_choice_of_tools_is_kept_but_imported_consent_is_not(chat: ChatPage, script: Script, tmp_path: Path) -> None:
    offer(chat, "calculate")
    script.answers = [call("calculate", expression="1"), "Done."]
    chat.send("Export this")
    chat.button("Always in this conversation").click()
    chat.answer.get_by_text("Done.").wait_for()
    chat.wait_for_end()
    with chat.page.expect_download() as download:
        chat.act("Export this", "Export as JSON")
    download.value.save_as(tmp_path / "talk.json")
    chat.act("Export this", "Delete")
    chat.button("Delete", chat.page.get_by_role("dialog")).click()
    chat.button("Settings").click()
    with chat.page.expect_file_chooser() as chooser:
        chat.button("Import JSON or Markdown").click()
    chooser.value.set_files(tmp_path / "talk.json")
    chat.page.get_by_text("Imported conversations: 1").wait_for()
    chat.button("Close").click()
    chat.conversation("Export this").click()
    chat.answer.get_by_text("Done.").wait_for()
    assert chat.page.get_by_label("calculate", exact=True).is_checked()
    script.answers = [call("calculate", expression="1")]
    chat.send("Again")
    chat.button("Always in this conversation").wait_for()
