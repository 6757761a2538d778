"""What the server knows of a client, and the errors that it sends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as the client sees it."""

    status: int  # of HTTP
    message: str  # one sentence for the client
    type: str  # a stable word for programs: "invalid_request_error" …
    param: str | None = None  # the request field at fault, as a dotted path
    extra: Mapping[str, Any] = field(default_factory=dict)  # further members of the error object
    retry_after: int | None = None  # seconds; becomes a header


@dataclass(frozen=True, slots=True)
class User:
    """Who sends a request, as an authenticator knows them."""

    name: str  # unique among the users of this server
    facts: Mapping[str, Any] = field(default_factory=dict)  # what else is known: groups, limits …
