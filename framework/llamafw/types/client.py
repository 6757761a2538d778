"""The user behind a request, and the error that a client receives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
    """The sender of a request, as an authenticator identified it."""

    name: str  # unique among the server's users
    facts: Mapping[str, Any] = field(default_factory=dict)  # anything else the authenticator knows: groups, limits …
