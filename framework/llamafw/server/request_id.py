"""Keep the id of the current request where logs and plugins can read it."""

from __future__ import annotations

from contextvars import ContextVar

current: ContextVar[str] = ContextVar("request_id", default="-")


def request_id() -> str:
    """Return the id of the current request, as ``X-Request-Id`` shows it, or ``-`` outside of a request.

    It is available wherever code runs for a request: in endpoints, in hooks such as ``request_finished``, in log
    handlers, and on threads started with `asyncio.to_thread`.
    """
    return current.get()
