"""Read the input of a response: complete its items, so that they can be stored, listed and sent back.

Independent of chat templates: `messages` turns items into messages.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

from llamafw import RequestError
from llamafw_plugins.endpoints.messages import MEDIA, media_error
from llamafw_plugins.endpoints.response_json import JSON

ID_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
_ENCODED_PREFIX = "llamafw-1."  # of the texts in `encrypted_content` that this server has made
_MAX_REASONING_BYTES = 2**26  # of one decoded text; a short text may decode to a long one


@dataclass(slots=True)
class InputItems:
    """The items that a response is made from, each with the request field that it came from."""

    items: list[JSON] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)  # "input.3", or "previous_response_id"

    def add(self, item: JSON, origin: str) -> None:
        """Append an item."""
        self.items.append(item)
        self.origins.append(origin)


def make_id(item_type: str) -> str:
    """Return a new id for an item of a type."""
    return f"{ID_PREFIXES[item_type]}_{token_hex(24)}"


def read_input(value: str | Sequence[JSON], find_item: Callable[[str], JSON | None], into: InputItems) -> None:
    """Append the items of a request's ``input``.

    Parameters
    ----------
    value : str or sequence of dict
        The field, valid against the API document. A text is a message of the user.
    find_item : callable
        Returns the stored item with an id, or None.
    into : InputItems
        Gets the items.

    Raises
    ------
    RequestError
        An item has content that cannot be read, or refers to an item that does not exist.
    """
    if isinstance(value, str):
        into.add(complete_item({"role": "user", "content": value}, "input"), "input")
        return
    for i, item in enumerate(value):
        origin = f"input.{i}"
        if item.get("type") == "item_reference" or not item.keys() & {"type", "role"}:
            found = find_item(item["id"])
            if found is None:
                message = (
                    f"the item {item['id'][:80]!r} does not exist: only items of stored responses can be referred to"
                )
                raise RequestError(message, param=f"{origin}.id")
            into.add(found, origin)
        else:
            into.add(complete_item(item, origin), origin)


def complete_item(item: JSON, origin: str) -> JSON:
    """Return an item of ``input`` with an id, a type, a status, and its content as parts."""
    kind: str = item.get("type") or "message"
    head = {"id": item.get("id") or make_id(kind), "type": kind, "status": item.get("status") or "completed"}
    if kind == "function_call":
        fields = {
            name: item[name] for name in ("call_id", "name", "namespace", "arguments") if item.get(name) is not None
        }
    elif kind == "function_call_output":
        output = item["output"]
        parts = output if isinstance(output, str) else _parts(output, "user", f"{origin}.output")
        fields = {"call_id": item["call_id"], "output": parts}
    elif kind == "reasoning":
        fields = {"summary": item.get("summary") or []}
        fields |= {name: item[name] for name in ("content", "encrypted_content") if item.get(name)}
    else:
        fields = {"role": item["role"], "content": _content(item, f"{origin}.content")}
    return {**head, **fields}


def _content(item: JSON, param: str) -> list[JSON]:
    content, role = item.get("content"), item["role"]
    if isinstance(content, str):
        content = [{"type": "input_text", "text": content}]
    if not content and role != "assistant":
        raise RequestError("the message has no content", param=param)
    return _parts(content or (), role, param)


def _parts(parts: Sequence[JSON], role: str, param: str) -> list[JSON]:
    return [_part(part, role, f"{param}.{i}") for i, part in enumerate(parts)]


def _part(part: JSON, role: str, param: str) -> JSON:
    kind = part["type"]
    if kind in MEDIA:
        raise media_error(kind, MEDIA[kind], param)
    if kind == "refusal":
        return {"type": "refusal", "refusal": part["refusal"]}
    if role != "assistant":
        return {"type": "input_text", "text": part["text"]}
    return {"type": "output_text", "text": part["text"], "annotations": [], "logprobs": part.get("logprobs") or []}


def part_text(part: JSON) -> str:
    """Return the text of a content part."""
    text: str = part["refusal"] if part["type"] == "refusal" else part["text"]
    return text


def reasoning_text(item: JSON) -> str:
    """Return the text of a reasoning item: of its content, or of ``encrypted_content``, or else of its summary."""
    if item.get("content"):
        return "".join(part["text"] for part in item["content"])
    decoded = decode_reasoning(item.get("encrypted_content") or "")
    return "\n\n".join(part["text"] for part in item["summary"]) if decoded is None else decoded


def encode_reasoning(text: str) -> str:
    """Return a text in the form of ``encrypted_content``: opaque to clients, and readable by every llamafw server.

    It is not a secret: clients see the same text in the item's content or summary.
    """
    return _ENCODED_PREFIX + base64.urlsafe_b64encode(zlib.compress(text.encode())).decode()


def decode_reasoning(encoded: str) -> str | None:
    """Return the text that `encode_reasoning` encoded; None if another server made it."""
    if not encoded.startswith(_ENCODED_PREFIX):
        return None
    try:
        packed = base64.urlsafe_b64decode(encoded.removeprefix(_ENCODED_PREFIX))
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(packed, _MAX_REASONING_BYTES)
        return text.decode() if unpacker.eof else None
    except (binascii.Error, zlib.error, ValueError):  # a client has changed it
        return None


def with_encoded_reasoning(item: JSON) -> JSON:
    """Return an item with ``encrypted_content``, if it is a reasoning item."""
    if item["type"] != "reasoning" or item.get("encrypted_content"):
        return item
    return {**item, "encrypted_content": encode_reasoning(reasoning_text(item))}


def item_size(item: Any) -> int:
    """Return about how many bytes an item takes."""
    if isinstance(item, dict):
        return sum(len(name) + item_size(value) for name, value in item.items())
    if isinstance(item, list):
        return sum(map(item_size, item))
    return len(item) if isinstance(item, str) else 8
