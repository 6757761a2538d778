"""Fields of the API that this version reads only to refuse them: leaving them out would change the answer unseen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamafw import NotSupported, RequestError

GENERATION: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "image_data": (([],), "images are not supported by this server, which has no multimodal plugin"),
}
"""Field → values that ask for nothing, and what to say to any other."""

CHAT: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "functions": (([],), "functions are not supported, tools are"),
    "function_call": (("none", "auto"), "function_call is not supported, tool_choice is"),
}
"""The same, for conversations."""


def refuse_generation(body: Mapping[str, Any]) -> None:
    """Raise NotSupported (501) if the request wants output that this server cannot constrain or make."""
    for field, (harmless, message) in GENERATION.items():
        if body.get(field) is not None and body[field] not in harmless:
            raise NotSupported(message, param=field)


def refuse_chat(body: Mapping[str, Any]) -> None:
    """Raise RequestError (400) if the request wants functions, the older form of tools."""
    for field, (harmless, message) in CHAT.items():
        if body.get(field) is not None and body[field] not in harmless:
            raise RequestError(message, param=field)
