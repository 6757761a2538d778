"""Fixtures: a server with the chat page and scripted answers, and tabs of a browser that show it.

The tests are skipped where Playwright or Chromium is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llamafw.testing.tiny import write_tiny_gguf
from support.chat_page import DESKTOP, ChatPage, running_browser
from support.page_server import PageServer, page_server
from support.scripted_engine import Script

TEMPLATE = Path(__file__).parents[1] / "support/chat_templates/qwen3.jinja"  # with reasoning and tools
TIMEOUT = 300_000  # milliseconds: machines that test several things at a time may stop one of them for a minute


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser; it ends with the module, because its event loop would disturb asynchronous tests."""
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose chat template has reasoning and tools."""
    folder = tmp_path_factory.mktemp("chat")
    return write_tiny_gguf(folder / "chat.gguf", chat_template=TEMPLATE.read_text("utf-8"))


@pytest.fixture(scope="module")
def server(browser: Any, chat_model: Path) -> Iterator[PageServer]:
    """A server without a key."""
    with page_server(chat_model) as server:
        yield server


@pytest.fixture
def script(server: PageServer) -> Iterator[Script]:
    """What the server's engine answers."""
    yield server.script
    server.script.reset()


@pytest.fixture
def open_page(browser: Any, server: PageServer, script: Script) -> Iterator[Callable[..., ChatPage]]:
    """Return a function that opens the page, in a new profile unless another page is given.

    Each page must end without problems, except those that its test expects.
    """
    pages: list[ChatPage] = []

    def open_page(
        beside: ChatPage | None = None, *, url: str = server.url, path: str = "/", **options: Any
    ) -> ChatPage:
        if beside is None:
            options = {"viewport": DESKTOP, "permissions": ["clipboard-read", "clipboard-write"], **options}
            context = browser.new_context(**options)
            context.set_default_timeout(TIMEOUT)
        else:
            context = beside.page.context
        pages.append(ChatPage(context.new_page(), url))
        return pages[-1].open(path)

    yield open_page
    for page in pages:
        page.page.context.close()
    assert [page.problems for page in pages] == [[] for _ in pages]


@pytest.fixture
def chat(open_page: Callable[..., ChatPage]) -> ChatPage:
    """The page in a new profile."""
    return open_page()
