"""The function that registration hooks receive."""

from __future__ import annotations

from typing import Any, Protocol


class Register(Protocol):
    """Registers an object under a name.

    If the name is taken, the error names both distributions.
    """

    def __call__(self, name: str, thing: Any, /) -> None: ...
