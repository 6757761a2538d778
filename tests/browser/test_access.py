"""The page works with a screen reader, a keyboard, a phone and dark colours, and loads only what it needs."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.chat_page import PHONE, ChatPage
from support.scripted_engine import Script

AXE = Path(__file__).parents[1] / "clients/node_modules/axe-core/axe.min.js"
MAX_FIRST_VIEW = 500 * 1024  # bytes, compressed

ANSWER = """<think>
Hm.
</think>

# Title

| a | b |
|--|--|
| 1 | 2 |

```python
def add(a, b):  # a comment
    return f"{a} and {b}", 1.5, None
```

$$\\int_0^1 x\\,dx$$

> quoted with `code` and [a link](https://example.org)
"""


def violations(chat: ChatPage) -> list[str]:
    """Return what axe-core finds wrong: https://github.com/dequelabs/axe-core"""
    if not AXE.is_file():
        pytest.skip("needs the package axe-core for Node: run `make node`")
    chat.page.evaluate(AXE.read_text("utf-8"))
    found = chat.page.evaluate("axe.run().then(({violations}) => violations)")
    return [f"{each['id']}: {node['html']}: {node['failureSummary']}" for each in found for node in each["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(open_page: Callable[..., ChatPage], script: Script, scheme: str) -> None:
    chat = open_page(color_scheme=scheme, reduced_motion="reduce")
    assert violations(chat) == []
    script.answers = [ANSWER]
    chat.send("Show all")
    chat.answer.locator(".katex").first.wait_for()
    chat.answer.locator(".hljs-keyword").first.wait_for()
    chat.button("Actions for “Show all”").click()
    assert violations(chat) == []
    for tab in ("Sampling", "Prompt", "Tools", "Server"):
        chat.show_panel(tab)
        chat.page.locator("#panel-content input, #panel-content textarea, #panel-content dl").first.wait_for()
        assert violations(chat) == []
    chat.button("Settings").click()
    assert violations(chat) == []
    chat.button("Keyboard shortcuts").click()
    assert violations(chat) == []


def test_axe_finds_no_violation_in_errors_and_tokens(chat: ChatPage, script: Script) -> None:
    chat.button("Settings").click()
    chat.page.get_by_label("Ask for the probability of each token").check()
    chat.button("Close").click()
    script.answers = ["one two"]
    chat.send("Count")
    chat.button("Show tokens", chat.answer).click()
    script.answers = [RuntimeError("broken")]
    chat.expected.append("status of 500")
    chat.send("Fail")
    assert violations(chat) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_in_tools_and_files(
    open_page: Callable[..., ChatPage], script: Script, tmp_path: Path, scheme: str
) -> None:
    chat = open_page(color_scheme=scheme, reduced_motion="reduce")
    chat.page.route("**/lora-adapters", lambda route: route.fulfill(json=[{"id": 0, "path": "poet.gguf", "scale": 1}]))
    chat.show_panel("Sampling")
    chat.page.get_by_role("spinbutton", name="poet.gguf").wait_for()
    assert violations(chat) == []
    chat.show_panel("Tools")
    chat.page.get_by_label("calculate", exact=True).check()
    (tmp_path / "notes.txt").write_text("apples and pears")
    with chat.page.expect_file_chooser() as chooser:
        chat.button("Attach files").click()
    chooser.value.set_files(tmp_path / "notes.txt")
    chat.button("Remove notes.txt").wait_for()
    assert violations(chat) == []
    call = '<tool_call>\n{"name": "calculate", "arguments": {"expression": "1 + 1"}}\n</tool_call>'
    script.answers = [call, "It is 2.", call]
    chat.send("Calculate")
    chat.questions.last.get_by_text("notes.txt").click()
    chat.button("Always in this conversation").wait_for()
    assert violations(chat) == []
    chat.button("Always in this conversation").click()
    chat.answer.get_by_text("It is 2.").wait_for()
    chat.wait_for_end()
    chat.button("Ask again").wait_for()
    assert violations(chat) == []


def test_page_can_be_used_with_the_keyboard(chat: ChatPage, script: Script) -> None:
    keyboard = chat.page.keyboard
    keyboard.type("Hello")
    keyboard.press("Shift+Enter")
    keyboard.type("again")
    keyboard.press("Enter")
    chat.answers.first.wait_for()
    chat.wait_for_end()
    assert "Hello\nagain" in script.prompts[0]
    keyboard.press("ArrowUp")
    keyboard.press("Control+a")
    keyboard.type("Changed")
    keyboard.press("Control+Enter")
    chat.answer.get_by_text("You said: Changed").wait_for()
    chat.wait_for_end()
    keyboard.press("Control+Alt+o")
    chat.page.get_by_role("tab", name="Sampling").focus()
    keyboard.press("ArrowRight")
    chat.page.get_by_label("System prompt", exact=True).wait_for()
    keyboard.press("Control+Alt+n")
    chat.page.get_by_text("What can I help with?").wait_for()
    chat.page.locator("h1").click()
    keyboard.press("?")
    chat.page.get_by_role("dialog", name="Keyboard shortcuts").wait_for()
    keyboard.press("Escape")
    chat.page.get_by_role("dialog").wait_for(state="detached")
    keyboard.press("/")
    chat.message.and_(chat.page.locator(":focus")).wait_for()


# Presses a key; returns the label of the element that has the focus when the next key can be pressed.
PRESS = """async (key) => {
  const init = {key, ctrlKey: key === "k", bubbles: true, cancelable: true};
  document.activeElement.dispatchEvent(new KeyboardEvent("keydown", init));
  const {port1, port2} = new MessageChannel();
  await new Promise((resolve) => { port1.onmessage = resolve; port2.postMessage(null); });
  return document.activeElement.getAttribute("aria-label") || document.activeElement.tagName;
}"""


def test_focus_moves_before_the_next_key(chat: ChatPage, script: Script) -> None:
    chat.send("Hello")
    assert chat.page.evaluate(PRESS, "ArrowUp") == "Edit"
    assert chat.page.evaluate(PRESS, "Escape") == "Message"
    chat.button("Hide conversations").click()
    assert chat.page.evaluate(PRESS, "k") == "Search conversations"
    chat.button("Hide conversations").click()
    assert chat.page.evaluate(PRESS, "?") == "Close"  # the first button of the dialog
    chat.page.keyboard.press("Escape")
    chat.page.get_by_role("dialog").wait_for(state="detached")
    assert chat.page.evaluate(PRESS, "/") == "Message"


def test_enter_can_start_a_new_line_instead(chat: ChatPage, script: Script) -> None:
    chat.button("Settings").click()
    chat.page.get_by_label("Send messages with").select_option("Ctrl+Enter")
    chat.button("Close").click()
    chat.message.fill("one")
    chat.message.press("End")
    chat.message.press("Enter")
    assert chat.message.input_value() == "one\n"
    chat.message.press("Control+Enter")
    chat.answer.get_by_text("You said: one").wait_for()


def test_end_of_an_answer_is_announced(chat: ChatPage, script: Script) -> None:
    chat.send("Hello")
    chat.page.get_by_role("status").get_by_text("The answer is complete.").wait_for()


def test_phone_shows_one_column_at_a_time(open_page: Callable[..., ChatPage], script: Script) -> None:
    chat = open_page(viewport=PHONE, is_mobile=True, has_touch=True)
    wide = "| " + " | ".join("abcdefghijkl" * 3) + " |\n" + "|--" * 36 + "|\n"
    script.answers = [f"{ANSWER}\n\n```\n{'long line ' * 40}\n```\n\n{wide}\n\n{'x' * 300}"]
    chat.send("Show all")
    assert chat.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    overflow = "element => element.scrollWidth - element.clientWidth"
    assert chat.page.get_by_role("region", name="Conversation").evaluate(overflow) == 0
    assert chat.page.get_by_role("navigation").count() == 0
    chat.button("Show conversations").tap()
    assert violations(chat) == []
    chat.conversation("Show all").tap()
    chat.page.get_by_role("navigation").wait_for(state="detached")
    chat.button("Show options").tap()
    chat.page.locator("#option-temperature").wait_for()
    assert violations(chat) == []
    chat.button("Hide options").tap()
    sizes = chat.page.locator("main button:visible").evaluate_all("all => all.map((each) => each.clientHeight)")
    assert min(sizes) >= 24  # pixels: WCAG 2.2, target size


def test_colours_can_be_chosen(open_page: Callable[..., ChatPage]) -> None:
    chat = open_page(color_scheme="light")
    expect = pytest.importorskip("playwright.sync_api").expect
    body = chat.page.locator("body")
    light = body.evaluate("element => getComputedStyle(element).backgroundColor")
    chat.button("Settings").click()
    chat.page.get_by_label("Colours").select_option("Dark")
    expect(body).not_to_have_css("background-color", light)
    dark = body.evaluate("element => getComputedStyle(element).backgroundColor")
    chat.page.reload()
    expect(body).to_have_css("background-color", dark)
    chat.page.emulate_media(color_scheme="dark")
    chat.button("Settings").click()
    chat.page.get_by_label("Colours").select_option("Light")
    expect(body).to_have_css("background-color", light)


def test_first_view_is_small_and_formulas_are_loaded_later(
    open_page: Callable[..., ChatPage], script: Script, browser: Any
) -> None:
    chat = open_page()
    sizes: dict[str, int] = {}
    chat.page.on("response", lambda response: sizes.update({response.url.split("?")[0]: compressed(response)}))
    with chat.page.expect_response("**/openapi.json"):
        chat.page.reload()
    chat.message.wait_for()
    chat.page.wait_for_load_state("networkidle")
    assert 20_000 < sum(sizes.values()) < MAX_FIRST_VIEW
    assert not any("formulas" in url or "highlight" in url or "KaTeX" in url for url in sizes)
    script.answers = [ANSWER]
    chat.send("Show all")
    chat.answer.locator(".katex").first.wait_for()
    assert any("formulas" in url for url in sizes)


def compressed(response: Any) -> int:
    """Return the size of a response after compression with the server's level."""
    return len(gzip.compress(response.body(), 3))


def test_page_forbids_scripts_and_requests_elsewhere(chat: ChatPage, script: Script) -> None:
    refused = chat.page.evaluate(
        "fetch('https://example.org/').then(() => 'sent', (error) => error.name)"
        ".then((result) => { const script = document.createElement('script'); script.textContent = 'window.bad = 1';"
        " document.body.append(script); return [result, window.bad === undefined]; })"
    )
    assert refused == ["TypeError", True]
    assert all("Content Security Policy" in problem for problem in chat.problems)
    assert len(chat.problems) >= 2
    chat.expected.append("Content Security Policy")
