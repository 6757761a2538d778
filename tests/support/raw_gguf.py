"""Write GGUF files byte by byte, valid or not.

It shares no code with llamafw or the package `gguf`.
"""

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
    """Return the bytes of a number, without its type."""
    return struct.pack("<" + FORMATS[kind], value)


def string(text: str | bytes) -> bytes:
    """Return the bytes of a string: length, text."""
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def array(kind: int, items: Sequence[bytes], n: int | None = None) -> bytes:
    """Return the bytes of an array: item type, count, items.

    ``n`` replaces the correct count.
    """
    return struct.pack("<IQ", kind, len(items) if n is None else n) + b"".join(items)


def value(key: str | bytes, kind: int, payload: bytes) -> bytes:
    """Return the bytes of a metadata entry: key, type, value."""
    return string(key) + struct.pack("<I", kind) + payload


def tensor(name: str | bytes, ne: Sequence[int], kind: int = F32, offset: int = 0, n_dims: int | None = None) -> bytes:
    """Return the bytes that describe a tensor.

    Parameters
    ----------
    name : str or bytes
        The tensor's name.
    ne : sequence of int
        Its sizes, the innermost dimension first, as in the file.
    kind : int
        Its type.
    offset : int
        Where its data starts, in bytes.
    n_dims : int, optional
        Replaces the correct number of dimensions.
    """
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
    """Return the content of a file.

    ``n_values`` and ``n_tensors`` replace the correct counts.
    """
    n_values = len(values) if n_values is None else n_values
    n_tensors = len(tensors) if n_tensors is None else n_tensors
    head = magic + struct.pack("<IQQ", version, n_tensors, n_values)
    head += b"".join(values) + b"".join(tensors)
    return head + b"\0" * (-len(head) % alignment) + data
