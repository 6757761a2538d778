"""Refuse known fields that this server does not support.

Ignoring them would change the answer silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamafw import RequestError

UnsupportedFields = Mapping[str, tuple[tuple[Any, ...], str]]
"""Field → values that are accepted because they have no effect, and the error message for all other values."""

GENERATION_FIELDS: UnsupportedFields = {
    "image_data": (
        ([],),
        "image_data needs a multimodal model and a plugin that reads images; this server's model reads text only",
    ),
}

CHAT_FIELDS: UnsupportedFields = {
    "functions": (([],), "functions is not supported; use tools instead"),
    "function_call": (("none", "auto"), "function_call is not supported; use tool_choice instead"),
}


def refuse_generation_fields(body: Mapping[str, Any]) -> None:
    """Raise RequestError if a generation or embedding request uses a field that this server does not support."""
    _refuse(body, GENERATION_FIELDS)


def refuse_chat_fields(body: Mapping[str, Any]) -> None:
    """Raise RequestError if a chat request uses the fields of OpenAI's older function calls."""
    _refuse(body, CHAT_FIELDS)


def _refuse(body: Mapping[str, Any], fields: UnsupportedFields) -> None:
    for field, (accepted, message) in fields.items():
        if body.get(field) is not None and body[field] not in accepted:
            raise RequestError(message, param=field)
