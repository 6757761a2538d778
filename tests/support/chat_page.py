"""The chat page in a browser, in the words of its users."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
).split()
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


def browser_path() -> str:
    """Return the path of Chromium, which the variable LLAMAFW_TEST_BROWSER may name; skip the test without one."""
    path = os.environ.get("LLAMAFW_TEST_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("needs Chromium, such as Debian's package `chromium`")
    return path


@contextmanager
def running_browser() -> Iterator[Any]:
    """Yield Playwright's browser; skip the test if Playwright or Chromium is not installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    path = browser_path()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class ChatPage:
    """One tab with the page.

    Attributes
    ----------
    page : playwright.sync_api.Page
        Playwright's page.
    expected : list of str
        Parts of the problems that a test causes.
    """

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.expected: list[str] = []
        self._problems: list[str] = []
        page.on("console", self._log)
        page.on("pageerror", lambda error: self._problems.append(str(error)))
        page.on("request", self._check_host)

    def open(self, path: str = "/") -> ChatPage:
        """Open the page."""
        self.page.goto(self.url + path)
        self.message.wait_for()
        return self

    @property
    def message(self) -> Any:
        """The field for the next message."""
        return self.page.get_by_label("Message", exact=True).and_(self.page.locator("textarea"))

    @property
    def answers(self) -> Any:
        """The answers of the branch that is shown."""
        return self.page.get_by_role("article", name="Assistant")

    @property
    def answer(self) -> Any:
        """The last answer."""
        return self.answers.last

    @property
    def questions(self) -> Any:
        """The user's messages of the branch that is shown."""
        return self.page.get_by_role("article", name="You")

    def send(self, text: str, *, wait: bool = True) -> None:
        """Type a message and send it; wait for the end of the answer."""
        n_answers = self.answers.count()
        self.message.fill(text)
        self.message.press("Enter")
        self.answers.nth(n_answers).wait_for()
        if wait:
            self.wait_for_end()

    def wait_for_end(self) -> None:
        """Wait until nothing is written."""
        self.button("Send").wait_for()

    def button(self, name: str, inside: Any = None) -> Any:
        """Return the last button with this name."""
        return (inside or self.page).get_by_role("button", name=name, exact=True).last

    def conversation(self, title: str) -> Any:
        """Return the link to a conversation in the list."""
        return self.page.get_by_role("navigation").get_by_role("link", name=title, exact=True)

    def act(self, title: str, action: str) -> None:
        """Choose an action from the menu of a conversation."""
        self.button(f"Actions for “{title}”").click()
        self.button(action).click()

    def show_panel(self, tab: str) -> None:
        """Open a tab of the panel at the right."""
        if self.page.get_by_role("tab").count() == 0:
            self.button("Show options").click()
        self.page.get_by_role("tab", name=tab).click()

    @property
    def problems(self) -> list[str]:
        """Unexpected errors and warnings in the console, exceptions, and requests to other hosts."""
        return [problem for problem in self._problems if not any(part in problem for part in self.expected)]

    def _log(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self._problems.append(f"{message.text} ({message.location.get('url')})")

    def _check_host(self, request: Any) -> None:
        if not request.url.startswith((f"{self.url}/", "data:", "blob:")):
            self._problems.append(f"a request to {request.url}")
