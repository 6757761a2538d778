"""GGUF files byte by byte, so that a test can put any lie into one. It shares no code with llamafw or `gguf`."""

from __future__ import annotations

import struct
from collections.abc import Sequence

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
FORMATS = {
    UINT8: "B",
    INT8: "b",
    UINT16: "H",
    INT16: "h",
    UINT32: "I",
    INT32: "i",
    FLOAT32: "f",
    BOOL: "B",
    UINT64: "Q",
    INT64: "q",
    FLOAT64: "d",
}

F32, Q4_0 = 0, 2  # tensor types


def number(kind: int, value: float) -> bytes:
    """Return a number's bytes, without its type."""
    return struct.pack("<" + FORMATS[kind], value)


def string(text: str | bytes) -> bytes:
    """Return a string's bytes: length, text."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def array(kind: int, items: Sequence[bytes], n: int | None = None) -> bytes:
    """Return an array's bytes: item type, count (``n``, if it shall be a lie), items."""
    return struct.pack("<IQ", kind, len(items) if n is None else n) + b"".join(items)


def value(key: str | bytes, kind: int, payload: bytes) -> bytes:
    """Return one metadata value's bytes."""
    return string(key) + struct.pack("<I", kind) + payload


def tensor(name: str | bytes, ne: Sequence[int], kind: int = F32, offset: int = 0, n_dims: int | None = None) -> bytes:
    """Return one tensor's description; ``ne`` is innermost first, as in the file."""
    n_dims = len(ne) if n_dims is None else n_dims
    return string(name) + struct.pack(f"<I{len(ne)}QIQ", n_dims, *ne, kind, offset)


def gguf(
    values: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_values: int | None = None,
    n_tensors: int | None = None,
    alignment: int = 32,
) -> bytes:
    """Return a whole file; the counts are true unless given."""
    head = magic + struct.pack(
        "<IQQ", version, len(tensors) if n_tensors is None else n_tensors, len(values) if n_values is None else n_values
    )
    head += b"".join(values) + b"".join(tensors)
    return head + b"\0" * (-len(head) % alignment) + data
