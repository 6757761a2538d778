"""Regular expressions of JSON Schema, rewritten for llguidance. It knows nothing of schemas.

Patterns are ECMA-262's (https://json-schema.org/draft/2020-12/json-schema-core#section-6.4) and may match anywhere in
a string; what comes out matches whole strings and has no anchors, which llguidance knows only at both ends. Validators
read ``\\w``, ``\\s``, ``\\d`` and ``.`` as they like, with Unicode or without: here each stands for what all of them
take it for, so that whatever is written is valid whoever reads it. Where it counts what does not match, too, as for
names of properties, they stand for what ECMA-262 says.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

MAX_DEPTH = 64  # of parentheses
MAX_ALTERNATIVES = 256  # after anchors within parentheses have been multiplied out
ANY = r"[\x{0}-\x{10ffff}]"
_SPACES = r"\t-\r\x{20}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
NARROW = {"d": "0-9", "w": "0-9A-Z_a-z", "s": _SPACES}
"""What every dialect takes it for."""
EXACT = {**NARROW, "s": _SPACES + r"\x{feff}"}
"""What ECMA-262 takes it for."""
WIDE = {
    "d": r"\p{Nd}",
    "w": r"\p{Alphabetic}\p{M}\p{N}\p{Pc}\x{200c}\x{200d}",
    "s": _SPACES + r"\x{1c}-\x{1f}\x{85}\x{feff}",
}
"""What some dialect takes it for."""
DOT = r"[^\n\r\x{2028}\x{2029}]"
_CONTROLS = {"t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r"}
_QUANTIFIER = re.compile(r"(?:[*+?]|\{(\d{1,6})(?:(,)(\d{1,6})?)?\})\??")


class PatternError(ValueError):
    """The pattern is wrong, or cannot be enforced; the message says why."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """``^`` or ``$``."""

    end: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Alternatives in parentheses, each a list of parts."""

    alternatives: tuple[Parts, ...]


Parts = tuple[str | Anchor | Group, ...]


def to_rust(pattern: str, *, exact: bool = False) -> str:
    """Return a regular expression, in Rust's syntax, of the whole strings in which ``pattern`` matches.

    Parameters
    ----------
    exact : bool
        Sets are ECMA-262's; else what all dialects agree on.

    Raises
    ------
    PatternError
        It is no regular expression, or has look-around, back-references, word boundaries, or anchors in the middle.
    """
    reader = _Reader(pattern, EXACT if exact else NARROW, EXACT if exact else WIDE)
    alternatives = reader.alternatives()
    if reader.at < len(pattern):
        reader.fail("unbalanced parenthesis")
    return "|".join(_whole(parts) for parts in _spread(alternatives))


def _spread(alternatives: tuple[Parts, ...]) -> list[Parts]:
    """Multiply out the groups that have anchors, if they are first or last: ``(^a|b)c`` is ``^ac|bc``."""
    found, left = [], list(reversed(alternatives))
    while left:
        parts = left.pop()
        inner = [at for at, part in enumerate(parts) if not isinstance(part, Anchor)]
        for at in {inner[0], inner[-1]} if inner else ():
            group = parts[at]
            if isinstance(group, Group) and _has_anchors(group):
                left += [(*parts[:at], *one, *parts[at + 1 :]) for one in reversed(group.alternatives)]
                break
        else:
            found.append(parts)
        if len(found) + len(left) > MAX_ALTERNATIVES:
            raise PatternError("too many alternatives with anchors")
    return found


def _has_anchors(group: Group) -> bool:
    return any(
        isinstance(part, Anchor) or (isinstance(part, Group) and _has_anchors(part))
        for parts in group.alternatives
        for part in parts
    )


def _whole(parts: Parts) -> str:
    """Return an alternative as one of whole strings."""
    start = end = False
    while parts and parts[0] == Anchor(end=False):
        start, parts = True, parts[1:]
    while parts and parts[-1] == Anchor(end=True):
        end, parts = True, parts[:-1]
    return ("" if start else f"{ANY}*") + _text(parts) + ("" if end else f"{ANY}*")


def _text(parts: Parts) -> str:
    text = ""
    for part in parts:
        if isinstance(part, Anchor):
            raise PatternError(f"{'$' if part.end else '^'} within a pattern cannot be enforced")
        text += part if isinstance(part, str) else f"(?:{'|'.join(map(_text, part.alternatives))})"
    return text


class _Reader:
    """Reads a pattern by recursive descent."""

    def __init__(self, text: str, narrow: Mapping[str, str], wide: Mapping[str, str]) -> None:
        self.text, self.at, self.depth = text, 0, 0
        self.narrow, self.wide = narrow, wide

    def alternatives(self) -> tuple[Parts, ...]:
        found = [self._parts()]
        while self._take("|"):
            found.append(self._parts())
        return tuple(found)

    def _parts(self) -> Parts:
        parts: list[str | Anchor | Group] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            part = self._atom()
            quantifier = _QUANTIFIER.match(self.text, self.at)
            if quantifier:
                if isinstance(part, Anchor):
                    self.fail("an anchor cannot be repeated")
                low, _, high = quantifier.groups()
                if low and high and int(high) < int(low):
                    self.fail(f"the repetition {quantifier[0]} is empty")
                self.at = quantifier.end()
                part = f"(?:{_text((part,))}){quantifier[0].removesuffix('?') if quantifier[0] != '?' else '?'}"
                if _QUANTIFIER.match(self.text, self.at):
                    self.fail("nothing to repeat")
            parts.append(part)
        return tuple(parts)

    def _atom(self) -> str | Anchor | Group:
        char = self._next()
        if char in "^$":
            return Anchor(end=char == "$")
        if char == "(":
            return self._group()
        if char == "[":
            return self._class()
        if char == ".":
            return DOT
        if char == "\\":
            return self._escape()
        if char in "*+?" or (char == "{" and _QUANTIFIER.match(self.text, self.at - 1)):
            self.fail("nothing to repeat")
        if char == "{" and re.compile(r",\d+\}").match(self.text, self.at):  # some dialects repeat here, some do not
            self.fail("a repetition needs its least number")
        return self._literal(char)

    def _group(self) -> Group:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail("the parentheses are nested too deeply")
        if self._take("?") and not self._take(":"):
            name = re.compile(r"P?<[A-Za-z_]\w*>").match(self.text, self.at)
            if not name:
                self.fail("look-around and inline flags cannot be enforced")
            self.at = name.end()
        alternatives = self.alternatives()
        if not self._take(")"):
            self.fail("a parenthesis is not closed")
        self.depth -= 1
        return Group(alternatives)

    def _escape(self) -> str:
        kind = self._next()
        if kind in "bB":
            self.fail("word boundaries cannot be enforced")
        if kind in "123456789k":
            self.fail("back-references cannot be enforced")
        if kind.lower() in NARROW:
            return f"[{self.narrow[kind]}]" if kind.islower() else f"[^{self.wide[kind.lower()]}]"
        return self._property(kind) if kind in "pP" else self._literal(self._character(kind))

    def _literal(self, char: str) -> str:
        if char < " " and char not in "\b\t\n\f\r":
            self.fail("a control character cannot be enforced")
        return char if char.isascii() and char.isalnum() else _code(char)

    def _class(self) -> str:
        """Read a class. In a negated one, sets are as wide as some dialect has them."""
        negated = self._take("^")
        items = []
        while not self._take("]"):
            low = self._class_item(negated)
            if self._peek() == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                high = self._class_item(negated)
                if len(low) > 1 or len(high) > 1 or high < low:
                    self.fail("a range of a class is wrong")
                items.append(f"{_code(low)}-{_code(high)}")
            else:
                items.append(low if len(low) > 1 else _code(low))
        if not items:
            if not negated:
                self.fail("an empty class matches nothing")
            return ANY
        return f"[{'^' * negated}{''.join(items)}]"

    def _class_item(self, negated: bool) -> str:
        """Return a character, or a set as it is written within a class."""
        char = self._next()
        if char != "\\":
            return char
        kind = self._next()
        if kind.lower() in NARROW:
            inner, outer = (self.wide, self.narrow) if negated else (self.narrow, self.wide)
            return inner[kind] if kind.islower() else f"[^{outer[kind.lower()]}]"
        if kind in "pP":
            return self._property(kind)
        return "\b" if kind == "b" else self._character(kind)

    def _property(self, kind: str) -> str:
        found = re.compile(r"\{[A-Za-z_]+(?:=[A-Za-z_]+)?\}").match(self.text, self.at)
        if not found:
            self.fail(f"\\{kind} needs the name of a property in braces")
        self.at = found.end()
        return f"\\{kind}{found[0]}"

    def _character(self, kind: str) -> str:
        """Return the character of an escape; its letter has been read."""
        if kind in _CONTROLS:
            return _CONTROLS[kind]
        if kind == "0" and self._peek() not in tuple(string.digits):
            return "\0"
        if kind == "c" and self._peek() in tuple(string.ascii_letters):
            return chr(ord(self._next()) % 32)
        if kind == "x":
            return chr(self._hex(2))
        if kind == "u":
            return self._unicode()
        if kind in string.ascii_letters + string.digits:
            self.fail(f"unknown escape \\{kind}")
        return kind

    def _unicode(self) -> str:
        if self._take("{"):
            end = self.text.find("}", self.at)
            code = self._hex(end - self.at)
            self.at += 1
        else:
            code = self._hex(4)
            if 0xD800 <= code < 0xDC00 and self.text.startswith("\\u", self.at):
                self.at += 2
                code = 0x10000 + (code - 0xD800) * 0x400 + self._hex(4) - 0xDC00
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            self.fail("an escape is no character")
        return chr(code)

    def _hex(self, n: int) -> int:
        digits = self.text[self.at : self.at + max(n, 0)]
        if not 0 < len(digits) == n <= 6 or not set(digits) <= set(string.hexdigits):
            self.fail("an escape is no character")
        self.at += n
        return int(digits, 16)

    def _next(self) -> str:
        if self.at == len(self.text):
            self.fail("it ends in the middle")
        self.at += 1
        return self.text[self.at - 1]

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _take(self, text: str) -> bool:
        found = self.text.startswith(text, self.at)
        self.at += len(text) * found
        return found

    def fail(self, message: str) -> NoReturn:
        raise PatternError(f"{message} (character {self.at})")


def _code(char: str) -> str:
    return f"\\x{{{ord(char):x}}}"
