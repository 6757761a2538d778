"""How large things in a template are and may become, and how long it may run. It knows nothing of Jinja or of chat."""

from __future__ import annotations

import re
import string
import threading
import time
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from math import inf
from typing import Any, TypeVar

MAX_SECONDS = 2.0  # of processor time for one rendering
MAX_SIZE = 2**23  # characters of one text, or of all output together; a member of a list counts as MEMBER characters
MEMBER = 8
MAX_NUMBER = 10**6  # as an argument: center(10**9) would be a long text
MAX_BITS = 4096  # of whole numbers

CONTAINERS = (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView)

T = TypeVar("T")


class LimitError(Exception):
    """A template took too long, or made too much."""


class Meter(threading.local):
    """What the rendering on this thread has used. Without one, anything goes: that is when a template is compiled."""

    def __init__(self) -> None:
        self.deadline = inf
        self.written = 0

    def start(self) -> None:
        """Begin a rendering."""
        self.deadline, self.written = time.thread_time() + MAX_SECONDS, 0

    def stop(self) -> None:
        """End it."""
        self.deadline, self.written = inf, 0

    def tick(self) -> None:
        """Look at the clock."""
        if time.thread_time() > self.deadline:
            raise LimitError(f"it takes more than {MAX_SECONDS:g} seconds")

    def write(self, text: str) -> str:
        """Count ``text`` as output, and return it."""
        self.written += len(text)
        check_size(self.written)
        return text


def check_size(size: int) -> None:
    """Raise LimitError above MAX_SIZE."""
    if size > MAX_SIZE:
        raise LimitError(f"it writes or makes more than {MAX_SIZE} characters")


def size_of(value: Any) -> int:
    """Return the size of a text, or of a container with all that is in it; else that of a member.

    What is in a container twice counts twice: it is written twice. Counting ends above MAX_SIZE.
    """
    if isinstance(value, str):
        return len(value)
    total, rest = 0, [value]
    while rest and total <= MAX_SIZE:
        item = rest.pop()
        total += MEMBER
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, Mapping):
            rest.extend(item.keys())
            rest.extend(item.values())
        elif isinstance(item, CONTAINERS):
            rest.extend(item)
    return total


def measured(value: T) -> T:
    """Return ``value``; LimitError if it is too large."""
    check_size(size_of(value))
    return value


def drained(values: Iterator[Any]) -> list[Any]:
    """Return what an iterator yields; LimitError as soon as that is too large."""
    found, size = [], 0
    for value in values:
        size += MEMBER + size_of(value)
        check_size(size)
        found.append(value)
    return found


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
        thing, n = (left, right) if isinstance(right, int) else (right, left)
        check_size(size_of(thing) * max(n, 0))
    elif operator == "%" and isinstance(left, str):
        check_call("format", (left, right), {})


def check_call(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise LimitError if a filter or method would make something too large.

    Parameters
    ----------
    args : sequence
        First what a filter is applied to, or whose method is called.
    """
    others = [*args[1:], *kwargs.values()]
    for value in others:
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise LimitError(f"{name or 'a function'} is given a number above {MAX_NUMBER}")
    if args and others and name in _GROWING:
        check_size(_GROWING[name](args[0], others))


def _check_bits(n: int) -> None:
    if n > MAX_BITS:
        raise LimitError("it makes a number that is too large")


def _length(value: Any) -> int:
    """Return the length of the text a value becomes, at most."""
    return len(value) if isinstance(value, str) else 8 * size_of(value)


def _replaced(text: Any, others: Sequence[Any]) -> int:
    """Return the size of ``text`` with its first other replaced by the second."""
    old, new = _length(others[0]), _length(others[1]) if len(others) > 1 else 0
    return _length(text) + (_length(text) // max(old, 1) + 1) * new


def _join(thing: Any, others: Sequence[Any]) -> int:
    """Return the size of a list joined by a text; as a filter the list comes first, as a method the text."""
    items, glue = (others[0], thing) if isinstance(others[0], CONTAINERS) else (thing, others[0])
    n = len(items) if isinstance(items, (str, Mapping, *CONTAINERS)) else MAX_NUMBER
    return size_of(items) + n * _length(glue)


def _indented(text: Any, others: Sequence[Any]) -> int:
    """Return the size of ``text`` with each line, or tab, made wider by the first other, a number or a text."""
    n = len(re.findall(r"[\n\r\t\v\f\x1c-\x1e\x85\u2028\u2029]", text)) + 1 if isinstance(text, str) else 1
    return _length(text) + n * (others[0] if isinstance(others[0], int) else _length(others[0]))


def _formatted(text: Any, others: Sequence[Any]) -> int:
    """Return the size of a format string filled in, paddings aside; LimitError if these may be large."""
    if not isinstance(text, str):
        return 0
    try:
        specs = [spec or "" for _, _, spec, _ in string.Formatter().parse(text)]
    except ValueError:  # no text for str.format, whoever does the formatting will say so
        specs = []
    if re.search(r"\d{5}|%[-+ #0]*\*|\.\*", text) or any("{" in spec for spec in specs):
        raise LimitError("it pads a text too far")
    fields = text.count("%") + text.count("{")
    return len(text) + fields * (10**4 + _length(list(others)))


_GROWING = {
    "replace": _replaced,
    "join": _join,
    "indent": _indented,
    "expandtabs": _indented,
    "format": _formatted,
    "format_map": _formatted,
}
"""What makes its result longer than what it is given, and how long at most."""
