"""Take the screenshots in docs/api.md: the page at /docs in Chromium, with an answer that is written here.

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
from support.api_page import ApiPage  # noqa: E402  # needs the path
from support.chat_page import DESKTOP, PHONE, running_browser  # noqa: E402  # needs the path
from support.page_server import PageServer, page_server  # noqa: E402  # needs the path

TEMPLATE = ROOT / "tests/support/chat_templates/qwen3.jinja"
CHAT = "createChatCompletion"


def shoot(page: ApiPage, name: str) -> None:
    """Save a screenshot."""
    page.page.mouse.move(0, 0)
    page.page.screenshot(path=FOLDER / f"{name}.png", animations="disabled", caret="hide")


def open_chat(page: ApiPage) -> Any:
    """Open the operation for chats at the top of the window, with its sample in Python."""
    operation = page.operation(CHAT)
    operation.get_by_role("button", name="Python", exact=True).click()
    operation.evaluate("element => element.scrollIntoView()")
    return operation


def take_all(server: PageServer, open_page: Callable[..., ApiPage]) -> None:
    """Take all screenshots."""
    page = open_page(viewport=DESKTOP, color_scheme="light")
    chat = open_chat(page)
    shoot(page, "api_page")

    server.script.answers = ["Hi! How can I help you?"]
    chat.get_by_label("Example").select_option("stream")
    page.send_request(chat)
    chat.locator(".try textarea").evaluate("element => element.scrollIntoView()")
    shoot(page, "api_page-response")

    dark = open_page(viewport=DESKTOP, color_scheme="dark")
    open_chat(dark)
    shoot(dark, "api_page-dark")

    phone = open_page(viewport=PHONE, color_scheme="light", is_mobile=True, has_touch=True)
    open_chat(phone)
    shoot(phone, "api_page-phone")


def main() -> None:
    """Start a server and a browser, and take all screenshots."""
    with tempfile.TemporaryDirectory() as folder, running_browser() as browser:
        os.chdir(folder)
        model = write_tiny_gguf(Path("tiny.gguf"), chat_template=TEMPLATE.read_text("utf-8"))
        with page_server(model) as server:

            def open_page(**options: Any) -> ApiPage:
                return ApiPage(browser.new_context(reduced_motion="reduce", **options).new_page(), server.url).open()

            take_all(server, open_page)


if __name__ == "__main__":
    main()
