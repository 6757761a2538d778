"""Read GGUF's primitive values, and check every length before it is used.

Independent of models and tensors.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from llamafw.errors import ModelError

MAX_NAME = 65_535  # bytes of a key or tensor name; for keys, this is the limit of the format
MAX_DEPTH = 4  # levels of nested arrays; known writers use 1

BOOL, STRING, ARRAY = 7, 8, 9
NUMBERS: dict[int, np.dtype[Any]] = {
    0: np.dtype("<u1"), 1: np.dtype("<i1"), 2: np.dtype("<u2"), 3: np.dtype("<i2"), 4: np.dtype("<u4"),
    5: np.dtype("<i4"), 6: np.dtype("<f4"), 10: np.dtype("<u8"), 11: np.dtype("<i8"), 12: np.dtype("<f8"),
}  # fmt: skip
"""Number of a value type → its numpy type."""

_MIN_SIZES = {BOOL: 1, STRING: 8, ARRAY: 12} | {number: dtype.itemsize for number, dtype in NUMBERS.items()}
"""Number of a value type → minimum size of a value in bytes."""


@dataclass(frozen=True, slots=True)
class RawValue:
    """The bytes of a value in a file, which begin with the number of its type."""

    data: bytes


class Cursor:
    """A position in a GGUF file that advances as values are read.

    Every method raises ModelError with the byte offset if a value is missing or invalid. A count is refused if the rest
    of the file is too small for so many values; therefore a damaged file cannot take more memory and time than its size
    allows.

    The parameter ``what`` of the methods names the value in error messages.

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
        """Raise ModelError for an error at ``position``, by default the current one."""
        raise ModelError(f"{self.path}: at byte {self.position if position is None else position}: {message}")

    def take(self, n: int, what: str) -> bytes:
        """Return the next ``n`` bytes."""
        if n > self.end - self.position:
            self.fail(f"the file ends within {what}: it needs {n} bytes, {self.end - self.position} are left")
        start, self.position = self.position, self.position + n
        return self.buffer[start : self.position]

    def uint32(self, what: str) -> int:
        """Return an unsigned 32-bit number."""
        return int.from_bytes(self.take(4, what), "little")

    def uint64(self, what: str) -> int:
        """Return an unsigned 64-bit number."""
        return int.from_bytes(self.take(8, what), "little")

    def count(self, what: str, min_size: int) -> int:
        """Return a 64-bit count of values that take at least ``min_size`` bytes each."""
        start = self.position
        n = self.uint64(what)
        if n * min_size > self.end - self.position:
            self.fail(f"{what} is {n}, too many for the {self.end - self.position} bytes that are left", start)
        return n

    def name(self, what: str) -> str:
        """Return a key or tensor name: not empty, at most `MAX_NAME` bytes, valid UTF-8."""
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
        """Return a string.

        Invalid UTF-8 becomes U+FFFD, because such strings are only displayed.
        """
        return self.take(self.count(f"the length of {what}", 1), what).decode(errors="replace")

    def strings(self, n: int, what: str) -> list[str]:
        """Return ``n`` strings.

        Invalid UTF-8 becomes lone surrogates (PEP 383), which keeps tokens distinct.

        A vocabulary has about a hundred thousand strings: most of the time to open a model is spent in this loop.
        """
        buffer, position, end = self.buffer, self.position, self.end
        length = struct.Struct("<Q").unpack_from
        raw_strings: list[bytes] = []
        add = raw_strings.append
        try:
            for _ in range(n):
                (size,) = length(buffer, position)
                start = position + 8
                position = start + size
                if position > end:
                    i = len(raw_strings)
                    self.fail(f"item {i} of {what} has {size} bytes, beyond the end of the file", start - 8)
                add(buffer[start:position])
        except struct.error:
            self.fail(f"the file ends before item {len(raw_strings)} of {what}", position)
        self.position = position

        try:
            return [raw.decode() for raw in raw_strings]
        except UnicodeDecodeError:
            return [raw.decode(errors="surrogateescape") for raw in raw_strings]

    def value(self, what: str) -> Any:
        """Return a value that follows the number of its type: int, float, bool, str, or an array as in `array`."""
        start = self.position
        value_type = self.uint32(f"the type of {what}")
        if dtype := NUMBERS.get(value_type):
            return np.frombuffer(self.take(dtype.itemsize, what), dtype)[0].item()
        if value_type == BOOL:
            return self._bools(1, what)[0].item()
        if value_type == STRING:
            return self.string(what)
        if value_type == ARRAY:
            return self.array(what)
        self.fail(f"{what} has the unknown value type {value_type}", start)

    def array(self, what: str, depth: int = 1) -> Any:
        """Return a list of str, a list of arrays, or a read-only numpy array of numbers or bools."""
        start = self.position
        item_type = self.uint32(f"the item type of {what}")
        if item_type not in _MIN_SIZES:
            self.fail(f"{what} has items of the unknown value type {item_type}", start)
        n = self.count(f"the number of items of {what}", _MIN_SIZES[item_type])

        if item_type == STRING:
            return self.strings(n, what)
        if item_type == ARRAY:
            if depth == MAX_DEPTH:
                self.fail(f"{what} has arrays nested more than {MAX_DEPTH} levels deep", start)
            return [self.array(what, depth + 1) for _ in range(n)]
        if item_type == BOOL:
            numbers = self._bools(n, what)
        else:
            dtype = NUMBERS[item_type]
            numbers = np.frombuffer(self.take(n * dtype.itemsize, what), dtype)
        numbers.flags.writeable = False
        return numbers

    def _bools(self, n: int, what: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
        start = self.position
        raw = np.frombuffer(self.take(n, what), np.uint8)
        if raw.size and raw.max() > 1:
            index = int(np.argmax(raw > 1))
            self.fail(f"{what} has a bool with the value {raw[index]}; it must be 0 or 1", start + index)
        return raw.view(np.bool_)
