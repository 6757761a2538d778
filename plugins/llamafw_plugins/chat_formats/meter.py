"""Limit how long a template runs and how large its values become.

Independent of Jinja and of chat.

Values are measured when they exist (`checked`). Operations that could make a value much larger are checked before they
run (`check_operator`, `check_call`).
"""

from __future__ import annotations

import gc
import re
import string
import threading
import time
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from math import inf
from typing import Any, TypeVar

MIN_SECONDS = 0.15  # processor time that the rendering of a short conversation may take
MAX_SECONDS = 2.0  # and that of the longest conversation
SIZE_PER_SECOND = 2**15  # characters of a conversation that allow one second more
MAX_SIZE = 2**23  # characters of one value, or of all output together
MEMBER_SIZE = 8  # characters that each member of a container counts as, in addition to its own text
MAX_NUMBER = 10**6  # largest number as an argument: center(10**9) would make a long text
MAX_BITS = 4096  # length of a whole number

CONTAINERS = (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)

T = TypeVar("T")


class LimitError(Exception):
    """A template took too long, or made a value that is too large."""


class Meter(threading.local):
    """Measures the rendering that runs on this thread.

    Outside of a rendering, for example while a template is compiled, there is no time limit.
    """

    def __init__(self) -> None:
        self.deadline, self.seconds = inf, inf
        self.written = self.kept = 0
        self._collecting = 0.0  # since when the garbage collector runs on this thread

    def start(self, given: object) -> None:
        """Start to measure a rendering of what a template is given: its time grows with the size of that."""
        self.seconds = min(MIN_SECONDS + size_of(given) / SIZE_PER_SECOND, MAX_SECONDS)
        self.deadline, self.written, self.kept = time.thread_time() + self.seconds, 0, 0
        gc.callbacks.append(self.leave_out_collection)

    def stop(self) -> None:
        """Stop measuring."""
        gc.callbacks.remove(self.leave_out_collection)
        self.deadline, self.seconds, self.written, self.kept = inf, inf, 0, 0

    def leave_out_collection(self, phase: str, info: Mapping[str, int]) -> None:
        """Give a rendering the time that the garbage collector takes on its thread; one of `gc.callbacks`.

        With many objects in memory, that can be longer than the rendering.
        """
        now = time.thread_time()
        if phase == "stop":
            self.deadline += now - self._collecting
        self._collecting = now

    def check_time(self) -> None:
        """Raise LimitError if the rendering takes too long."""
        if time.thread_time() > self.deadline:
            raise LimitError(f"it takes more than {self.seconds:.2g} seconds")

    def count_output(self, text: str) -> str:
        """Count ``text`` as output, and return it."""
        self.written += len(text)
        check_size(self.written)
        return text

    def read_iterator(self, values: Iterator[Any]) -> list[Any]:
        """Return the values of an iterator; LimitError as soon as they are too large or take too long."""
        items, size = [], 0
        for value in values:
            self.check_time()
            size += MEMBER_SIZE + size_of(value)
            check_size(size)
            items.append(value)
        return items

    def count_memory(self, values: Sequence[Any]) -> None:
        """Count values that are added to a list."""
        self.kept += MEMBER_SIZE + sum(map(size_of, values))
        check_size(self.kept)


def check_size(size: int) -> None:
    """Raise LimitError above MAX_SIZE."""
    if size > MAX_SIZE:
        raise LimitError(f"it produces more than {MAX_SIZE} characters")


def size_of(value: Any) -> int:
    """Return the size of a value: a text's length, a container's size with everything in it, else MEMBER_SIZE.

    A value that is in a container twice counts twice, because it is written twice. Counting stops above MAX_SIZE.
    """
    if isinstance(value, str):
        return len(value)
    total, rest = 0, [value]
    while rest and total <= MAX_SIZE:
        item = rest.pop()
        total += MEMBER_SIZE
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, Mapping):
            rest.extend(item.keys())
            rest.extend(item.values())
        elif isinstance(item, CONTAINERS):
            rest.extend(item)
    return total


def checked(value: T) -> T:
    """Return ``value``; LimitError if it is too large."""
    check_size(size_of(value))
    return value


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Raise LimitError if the result of an arithmetic operator would be too large."""
    if isinstance(left, int) and isinstance(right, int):
        if operator == "**":
            _check_bits(left.bit_length() * max(right, 0))
        elif operator in "+-*":
            _check_bits(left.bit_length() + right.bit_length())
    elif operator == "+":
        check_size(size_of(left) + size_of(right))
    elif operator == "*" and (isinstance(left, int) or isinstance(right, int)):
        sequence, n = (left, right) if isinstance(right, int) else (right, left)
        check_size(size_of(sequence) * max(n, 0))
    elif operator == "%" and isinstance(left, str):
        check_call("format", (left, right), {})


def check_call(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise LimitError if the result of a filter or method would be too large.

    Parameters
    ----------
    name : str
        The filter's or method's name.
    args : sequence
        The value that the filter or method is applied to, then the arguments.
    kwargs : mapping
        Arguments by name.
    """
    arguments = [*args[1:], *kwargs.values()]
    for value in arguments:
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise LimitError(f"{name or 'a function'} is given a number above {MAX_NUMBER}")
    if name == "sum" and any(isinstance(value, CONTAINERS) for value in arguments):
        raise LimitError("sum is given a list, which it would copy for each item")
    if args and arguments and name in _MAX_SIZES:
        check_size(_MAX_SIZES[name](args[0], arguments))


def _check_bits(n: int) -> None:
    if n > MAX_BITS:
        raise LimitError("it makes a number that is too large")


def _length(value: Any) -> int:
    """Return the maximum length of a value as text."""
    return len(value) if isinstance(value, str) else 8 * size_of(value)


def _replaced(text: Any, arguments: Sequence[Any]) -> int:
    """Return the maximum size of ``text`` with the first argument replaced by the second."""
    old, new = _length(arguments[0]), _length(arguments[1]) if len(arguments) > 1 else 0
    return _length(text) + (_length(text) // max(old, 1) + 1) * new


def _joined(value: Any, arguments: Sequence[Any]) -> int:
    """Return the maximum size of a joined list.

    The filter is applied to the list, with the separator as argument; the method belongs to the separator.
    """
    items, separator = (arguments[0], value) if isinstance(arguments[0], CONTAINERS) else (value, arguments[0])
    n = len(items) if isinstance(items, (str, Mapping, *CONTAINERS)) else MAX_NUMBER
    return size_of(items) + n * _length(separator)


def _indented(text: Any, arguments: Sequence[Any]) -> int:
    """Return the maximum size of ``text`` with each line or tab widened by the first argument, a number or a text."""
    n = len(re.findall(r"[\n\r\t\v\f\x1c-\x1e\x85\u2028\u2029]", text)) + 1 if isinstance(text, str) else 1
    return _length(text) + n * (arguments[0] if isinstance(arguments[0], int) else _length(arguments[0]))


def _formatted(text: Any, arguments: Sequence[Any]) -> int:
    """Return the maximum size of a format string filled in; LimitError if its padding may be large."""
    if not isinstance(text, str):
        return 0
    try:
        specs = [spec or "" for _, _, spec, _ in string.Formatter().parse(text)]
    except ValueError:  # not valid for str.format, which raises its own error when it is called
        specs = []
    if re.search(r"\d{5}|%[-+ #0]*\*|\.\*", text) or any("{" in spec for spec in specs):
        raise LimitError("it pads a text too far")
    fields = text.count("%") + text.count("{")
    return len(text) + fields * (10**4 + _length(list(arguments)))


_MAX_SIZES = {
    "replace": _replaced,
    "join": _joined,
    "indent": _indented,
    "expandtabs": _indented,
    "format": _formatted,
    "format_map": _formatted,
}
"""Filters and methods whose result can be larger than their arguments, with a function for its maximum size."""
