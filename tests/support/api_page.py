"""The page at /docs in a browser, in the words of its users."""

from __future__ import annotations

from typing import Any

from support.chat_page import ChatPage


class ApiPage(ChatPage):
    """One tab with the page; like `ChatPage`, it collects problems."""

    def open(self, path: str = "/docs/") -> ApiPage:
        """Open the page."""
        self.page.goto(self.url + path)
        self.page.get_by_label("API key").wait_for()  # the script shows it
        return self

    def operation(self, name: str) -> Any:
        """Open an operation, and return it."""
        operation = self.page.locator(f"#{name}")
        if operation.get_attribute("open") is None:
            operation.locator("summary").first.click()
        operation.locator(".try").wait_for()
        return operation

    def sample(self, operation: Any) -> str:
        """Return the sample that is shown."""
        return str(operation.locator(".sample:visible").inner_text())

    def send_request(self, operation: Any) -> str:
        """Send the request of an operation; return the line with its status when the response has ended."""
        operation.get_by_role("button", name="Send", exact=True).click()
        operation.get_by_role("button", name="Stop").wait_for(state="hidden")
        return str(operation.locator(".outcome").inner_text())
