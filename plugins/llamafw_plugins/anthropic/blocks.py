"""Check the content blocks of messages, and read their texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llamafw import RequestError
from llamafw_plugins.endpoints.response_json import JSON

MEDIA = {"image": "images", "document": "documents"}
"""Types of blocks that only a multimodal model can read → what they carry. A document may also be a text."""

REQUIRED = {
    "text": ("text",),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id",),
    "thinking": ("thinking",),
    "redacted_thinking": (),
    "document": ("source",),
    "search_result": ("content",),
    "tool_reference": ("tool_name",),
}
"""Types of blocks that are supported, and the members that they must have."""

IN_MESSAGES = {
    "user": ("text", "tool_result", "document", "search_result"),
    "assistant": ("text", "tool_use", "thinking", "redacted_thinking"),
    "system": ("text",),
}
"""Types of blocks by the role of their message."""

IN_RESULTS = ("text", "document", "search_result", "tool_reference")
"""Types of blocks in the result of a call."""

TEXT_SOURCES = {"text": "data", "content": "content"}
"""Types of sources of a document that is text → the member with the text."""


def check_block(role: str, block: JSON, place: str) -> None:
    """Raise RequestError if a block cannot be part of a message of a role, or lacks a member."""
    _check(IN_MESSAGES[role], f"in messages of the role {role!r}", block, place)


def block_text(block: JSON, place: str) -> str:
    """Return the text of a checked block of the type text, document, search_result or tool_reference.

    Raises
    ------
    RequestError
        A part of it is not text.
    """
    match block["type"]:
        case "document":
            lines = [block.get("title"), block.get("context"), _document_text(block["source"], place)]
        case "search_result":
            if not isinstance(block.get("source") or "", str):
                raise RequestError("the source of a search result must be a string", param=f"{place}.source")
            lines = [block.get("title"), block.get("source"), _texts(("text",), block["content"], f"{place}.content")]
        case "tool_reference":
            lines = [block["tool_name"]]
        case _:
            return str(block["text"])
    return "\n".join(filter(None, lines))


def result_text(content: Any, place: str) -> str:
    """Return the text of the result of a call."""
    return "" if content is None else _texts(IN_RESULTS, content, place)


def _texts(allowed: Sequence[str], content: str | Sequence[JSON], place: str) -> str:
    """Return the text of a content that is a text or consists of blocks of the allowed types."""
    if isinstance(content, str):
        return content
    texts = []
    for i, block in enumerate(content):
        _check(allowed, "here", block, f"{place}.{i}")
        texts.append(block_text(block, f"{place}.{i}"))
    return "\n".join(texts)


def _check(allowed: Sequence[str], where: str, block: JSON, place: str) -> None:
    kind = block["type"]
    if kind in MEDIA and not _is_text_document(block):
        message = f"{kind} needs a multimodal model and a plugin that reads {MEDIA[kind]}"
        raise RequestError(f"{message}; this server's model reads text only", param=place)
    if kind not in REQUIRED:
        raise RequestError(f"blocks of the type {kind[:40]!r} are not supported", param=f"{place}.type")
    if kind not in allowed:
        raise RequestError(f"blocks of the type {kind!r} are not supported {where}", param=f"{place}.type")

    for name in REQUIRED[kind]:
        if block.get(name) is None:
            raise RequestError(f"the block has no {name}", param=f"{place}.{name}")


def _is_text_document(block: JSON) -> bool:
    source = block.get("source")
    return block["type"] == "document" and isinstance(source, dict) and source.get("type") in TEXT_SOURCES


def _document_text(source: JSON, place: str) -> str:
    name = TEXT_SOURCES[source["type"]]
    content = source.get(name)
    place = f"{place}.source.{name}"
    if not isinstance(content, str) and (name == "data" or not isinstance(content, list)):
        raise RequestError("the source has no text", param=place)
    return _texts(("text",), content, place)
