"""Read GGUF's primitive values from a buffer, with every length checked before it is believed.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. This module knows nothing of models or tensors.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from llamafw.errors import ModelError

MAX_NAME = 65_535  # bytes of a key or tensor name; the format's own bound for keys
MAX_DEPTH = 4  # arrays within arrays; no known writer goes beyond 1

BOOL, STRING, ARRAY = 7, 8, 9
NUMBERS: dict[int, np.dtype[Any]] = {
    0: np.dtype("<u1"), 1: np.dtype("<i1"), 2: np.dtype("<u2"), 3: np.dtype("<i2"), 4: np.dtype("<u4"),
    5: np.dtype("<i4"), 6: np.dtype("<f4"), 10: np.dtype("<u8"), 11: np.dtype("<i8"), 12: np.dtype("<f8"),
}  # fmt: skip
"""Value type number → layout."""

_SMALLEST = {BOOL: 1, STRING: 8, ARRAY: 12} | {number: dtype.itemsize for number, dtype in NUMBERS.items()}


class Cursor:
    """A place in a GGUF file that moves forward as values are read.

    Every method raises ModelError, naming the byte offset, if the value is not there or makes no sense. Memory and
    time are bounded by the size of the file: a count is refused if so many values cannot fit in what is left.

    Parameters
    ----------
    path : Path
        For error messages.
    buffer : mmap or bytes
        The whole file.
    """

    def __init__(self, path: Path, buffer: mmap.mmap | bytes) -> None:
        self.path, self.buffer = path, buffer
        self.end = len(buffer)
        self.position = 0  # bytes from the start of the file

    def fail(self, message: str, position: int | None = None) -> NoReturn:
        """Raise the ModelError for what is wrong at ``position`` (default: here)."""
        raise ModelError(f"{self.path}: at byte {self.position if position is None else position}: {message}")

    def take(self, n: int, what: str) -> bytes:
        """Return the next ``n`` bytes."""
        if n > self.end - self.position:
            self.fail(f"the file ends within {what} ({n} bytes needed, {self.end - self.position} left)")
        start, self.position = self.position, self.position + n
        return self.buffer[start : self.position]

    def uint32(self, what: str) -> int:
        """Return an unsigned 32-bit number."""
        return int.from_bytes(self.take(4, what), "little")

    def uint64(self, what: str) -> int:
        """Return an unsigned 64-bit number."""
        return int.from_bytes(self.take(8, what), "little")

    def count(self, what: str, smallest: int) -> int:
        """Return a 64-bit count of things that take at least ``smallest`` bytes each."""
        start = self.position
        n = self.uint64(what)
        if n * smallest > self.end - self.position:
            self.fail(f"{what} is {n}, more than the {self.end - self.position} bytes left can hold", start)
        return n

    def name(self, what: str) -> str:
        """Return a string that names something: not empty, at most `MAX_NAME` bytes, strictly UTF-8."""
        start = self.position
        n = self.uint64(f"the length of {what}")
        if not 0 < n <= MAX_NAME:
            self.fail(f"the length of {what} is {n}; it must be from 1 to {MAX_NAME}", start)
        raw = self.take(n, what)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            self.fail(f"{what} {raw[:80]!r} is not UTF-8", start)

    def string(self, what: str) -> str:
        """Return a string; bytes that are no UTF-8 become U+FFFD, for such strings are shown to people."""
        return self.take(self.count(f"the length of {what}", 1), what).decode(errors="replace")

    def strings(self, n: int, what: str) -> list[str]:
        """Return ``n`` strings; bytes that are no UTF-8 become lone surrogates (PEP 383), for tokens must stay apart.

        A vocabulary has some hundred thousand of them: this loop is most of the time it takes to open a model.
        """
        buffer, position, end = self.buffer, self.position, self.end
        length = struct.Struct("<Q").unpack_from
        found: list[bytes] = []
        add = found.append
        try:
            for _ in range(n):
                (size,) = length(buffer, position)
                start = position + 8
                position = start + size
                if position > end:
                    self.fail(f"item {len(found)} of {what} has {size} bytes, beyond the end of the file", start - 8)
                add(buffer[start:position])
        except struct.error:
            self.fail(f"the file ends before item {len(found)} of {what}", position)
        self.position = position
        try:
            return [raw.decode() for raw in found]
        except UnicodeDecodeError:
            return [raw.decode(errors="surrogateescape") for raw in found]

    def value(self, what: str) -> Any:
        """Return a value of the type whose number comes first: int, float, bool, str, or as `array` says."""
        start = self.position
        kind = self.uint32(f"the type of {what}")
        if dtype := NUMBERS.get(kind):
            return np.frombuffer(self.take(dtype.itemsize, what), dtype)[0].item()
        if kind == BOOL:
            return self._bools(1, what)[0].item()
        if kind == STRING:
            return self.string(what)
        if kind == ARRAY:
            return self.array(what)
        self.fail(f"{what} has the unknown value type {kind}", start)

    def array(self, what: str, depth: int = 1) -> Any:
        """Return a list of str, a list of arrays, or a read-only numpy array of numbers or bools."""
        start = self.position
        kind = self.uint32(f"the item type of {what}")
        if kind not in _SMALLEST:
            self.fail(f"{what} has items of the unknown value type {kind}", start)
        n = self.count(f"the number of items of {what}", _SMALLEST[kind])
        if kind == STRING:
            return self.strings(n, what)
        if kind == ARRAY:
            if depth == MAX_DEPTH:
                self.fail(f"{what} has arrays nested more than {MAX_DEPTH} deep", start)
            return [self.array(what, depth + 1) for _ in range(n)]
        if kind == BOOL:
            numbers = self._bools(n, what)
        else:
            dtype = NUMBERS[kind]
            numbers = np.frombuffer(self.take(n * dtype.itemsize, what), dtype)
        numbers.flags.writeable = False
        return numbers

    def _bools(self, n: int, what: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
        start = self.position
        raw = np.frombuffer(self.take(n, what), np.uint8)
        if raw.size and raw.max() > 1:
            at = int(np.argmax(raw > 1))
            self.fail(f"{what} has the byte {raw[at]} where a bool must be 0 or 1", start + at)
        return raw.view(np.bool_)
