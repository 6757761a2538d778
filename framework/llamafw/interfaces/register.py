"""The function that registration hooks receive."""

from __future__ import annotations

from typing import Any, Protocol


class Register(Protocol):
    """Adds one thing under a name. A name that is taken is an error naming both distributions."""

    def __call__(self, name: str, thing: Any, /) -> None: ...
