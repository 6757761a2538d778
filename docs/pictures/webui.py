"""Take the screenshots in docs/webui.md: the chat page in Chromium, with answers that are written here.

Needs Chromium and the package playwright.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from llamafw.testing.tiny import write_tiny_gguf  # noqa: E402  # below the path that it does not need, with the others
from support.chat_page import DESKTOP, PHONE, ChatPage, running_browser  # noqa: E402  # needs the path
from support.page_server import PageServer, page_server  # noqa: E402  # needs the path

TEMPLATE = ROOT / "tests/support/chat_templates/qwen3.jinja"

QUESTION = "How fast does a stone fall after one second? Show a formula, code and a table."
ANSWER = """<think>
Without drag, the speed is the acceleration times the time. I should also give the distance.
</think>

Without air resistance, its speed grows evenly:

$$v = g\\,t \\qquad s = \\tfrac{1}{2}\\,g\\,t^2$$

| Time | Speed | Distance |
|--:|--:|--:|
| 1 s | 9.8 m/s | 4.9 m |
| 2 s | 19.6 m/s | 19.6 m |

```python
def speed(seconds: float, g: float = 9.81) -> float:
    \"\"\"Return the speed in metres per second.\"\"\"
    return g * seconds
```

After **one second** the stone has a speed of 9.8 m/s."""

CALL = """<think>
The time is the square root of twice the height, divided by the acceleration.
</think>

<tool_call>
{"name": "calculate", "arguments": {"expression": "sqrt(2 * 50 / 9.81)"}}
</tool_call>"""

CONVERSATIONS = (
    ("Plan a week of dinners for four people", "Here is a plan for seven dinners …"),
    ("Explain borrowing in Rust to a Python programmer", "Every value in Rust has one owner …"),
    ("Translate “Wo ist der Bahnhof?”", "Where is the station?"),
)


def fill(chat: ChatPage, server: PageServer) -> None:
    """Create some conversations; the last one stays open."""
    for question, answer in CONVERSATIONS:
        server.script.answers = [answer]
        chat.button("New conversation").click()
        chat.send(question)
    server.script.answers = [ANSWER]
    chat.button("New conversation").click()
    chat.send(QUESTION)
    chat.answer.locator(".katex").first.wait_for()
    chat.answer.locator(".hljs-keyword").first.wait_for()


def shoot(chat: ChatPage, name: str) -> None:
    """Save a screenshot."""
    chat.page.evaluate("document.fonts.ready")
    chat.page.mouse.move(0, 0)
    chat.page.screenshot(path=FOLDER / f"{name}.png", animations="disabled", caret="hide")


def take_all(server: PageServer, open_page: Callable[..., ChatPage]) -> None:
    """Take all screenshots."""
    chat = open_page(viewport=DESKTOP, color_scheme="light")
    fill(chat, server)
    shoot(chat, "webui")
    chat.show_panel("Sampling")
    chat.page.get_by_label("temperature", exact=True).and_(chat.page.locator("[type=number]")).fill("0.6")
    chat.page.locator("#option-temperature").scroll_into_view_if_needed()
    shoot(chat, "webui-options")
    chat.page.get_by_role("tab", name="Prompt").click()
    shoot(chat, "webui-prompt")
    chat.page.get_by_role("tab", name="Server").click()
    chat.page.get_by_text("0 running, 0 waiting").wait_for()
    shoot(chat, "webui-server")
    chat.button("Hide options").click()
    chat.button("Settings").click()
    chat.page.get_by_label("Ask for the probability of each token").check()
    chat.button("Close").click()
    server.script.answers = ["The stone falls 4.9 metres in the first second."]
    chat.send("And how far does it fall?")
    chat.button("Show tokens", chat.answer).click()
    chat.answer.locator(".token").nth(3).hover()
    chat.page.screenshot(path=FOLDER / "webui-tokens.png", animations="disabled", caret="hide")

    chat.button("New conversation").click()
    chat.show_panel("Tools")
    chat.page.get_by_label("calculate", exact=True).check()
    chat.page.get_by_label("get_current_time", exact=True).check()
    server.script.answers = [CALL]
    chat.send("How long does a stone fall from a tower of 50 metres?")
    chat.button("Always in this conversation").wait_for()
    shoot(chat, "webui-tools")

    dark = open_page(viewport=DESKTOP, color_scheme="dark")
    fill(dark, server)
    shoot(dark, "webui-dark")

    phone = open_page(viewport=PHONE, color_scheme="light", is_mobile=True, has_touch=True)
    fill(phone, server)
    shoot(phone, "webui-phone")


def main() -> None:
    """Start a server and a browser, and take all screenshots."""
    with tempfile.TemporaryDirectory() as folder, running_browser() as browser:
        os.chdir(folder)  # the page shows the path of the model
        model = write_tiny_gguf(Path("tiny.gguf"), chat_template=TEMPLATE.read_text("utf-8"))
        with page_server(model, metrics=True) as server:

            def open_page(**options: Any) -> ChatPage:
                return ChatPage(browser.new_context(**options).new_page(), server.url).open()

            take_all(server, open_page)


if __name__ == "__main__":
    main()
