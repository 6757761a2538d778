"""The user behind a request, its priority, and the error that a client receives."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

PRIORITIES = range(-20, 20)
"""The priorities of requests. As with Unix's ``nice`` and in vLLM, smaller numbers come first, and 0 is normal."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as the client sees it."""

    status: int  # HTTP status
    message: str  # one sentence for the client
    type: str  # stable identifier for programs: "invalid_request_error" …
    param: str | None = None  # the request field that is wrong, as a dotted path
    extra: Mapping[str, Any] = field(default_factory=dict)  # further members of the error object
    retry_after: int | None = None  # seconds, for the Retry-After header


@dataclass(frozen=True, slots=True)
class User:
    """The sender of a request, as an authenticator identified it.

    Raises
    ------
    ValueError
        The priority is not one of `PRIORITIES`.
    """

    name: str  # unique among the server's users
    facts: Mapping[str, Any] = field(default_factory=dict)  # anything else the authenticator knows: groups, limits …
    priority: int = 0  # of requests that do not choose one; they cannot choose a smaller number

    def __post_init__(self) -> None:
        """Check the priority, because the engine orders all requests by it."""
        if self.priority not in PRIORITIES:
            raise ValueError(f"the priority of a User must be a whole number from -20 to 19, not {self.priority!r:.80}")


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent a request, and with which priority.

    This decides when the request gets a slot.
    """

    priority: int = 0  # one of `PRIORITIES`; smaller numbers come first
    key: str = ""  # name of the `User`; empty if the server has no authenticators
    user: str = ""  # the end user, as the request's own field names it; empty if it names none


sender: ContextVar[Sender] = ContextVar("sender", default=Sender())  # noqa: B039  # frozen


def current_sender() -> Sender:
    """Return the sender of the current request, or `Sender()` outside of a request.

    It is available wherever code runs for a request, and on threads started with `asyncio.to_thread`.
    """
    return sender.get()
