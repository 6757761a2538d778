"""Translates the regular expressions of JSON Schema to Rust's syntax for llguidance.

Independent of schemas.

Patterns are those of ECMA-262 (https://json-schema.org/draft/2020-12/json-schema-core#section-6.4) and may match
anywhere in a string. Their translations match whole strings and contain no anchors, which llguidance supports only at
both ends.

Validators disagree about ``\\w``, ``\\s``, ``\\d`` and ``.``: some read them as ASCII, some as Unicode. Here they match
only the characters that all validators agree on, so a response is valid for every reader. Patterns for the names of
properties use exactly the definitions of ECMA-262, because a name that does not match has a meaning too.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

MAX_DEPTH = 64  # levels of parentheses
MAX_ALTERNATIVES = 256  # after expansion of groups with anchors
ANY = r"[\x{0}-\x{10ffff}]"
_SPACES = r"\t-\r\x{20}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
NARROW = {"d": "0-9", "w": "0-9A-Z_a-z", "s": _SPACES}
"""Characters that belong to a set according to every dialect."""
EXACT = {**NARROW, "s": _SPACES + r"\x{feff}"}
"""Characters that belong to a set according to ECMA-262."""
WIDE = {
    "d": r"\p{Nd}",
    "w": r"\p{Alphabetic}\p{M}\p{N}\p{Pc}\x{200c}\x{200d}",
    "s": _SPACES + r"\x{1c}-\x{1f}\x{85}\x{feff}",
}
"""Characters that belong to a set according to at least one dialect."""
DOT = r"[^\n\r\x{2028}\x{2029}]"
_CONTROLS = {"t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r"}
_QUANTIFIER = re.compile(r"(?:[*+?]|\{(\d{1,6})(?:(,)(\d{1,6})?)?\})\??")


class PatternError(ValueError):
    """The pattern is invalid or cannot be enforced; the message says why."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """The anchor ``$`` if ``end``, else ``^``."""

    end: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Alternatives in parentheses."""

    alternatives: tuple[Parts, ...]


Parts = tuple[str | Anchor | Group, ...]
"""A sequence of translated text, anchors and groups."""


def to_rust(pattern: str, *, exact: bool = False) -> str:
    """Return a regular expression in Rust's syntax that matches the whole of every string in which ``pattern`` matches.

    Parameters
    ----------
    pattern : str
        A regular expression of ECMA-262.
    exact : bool
        Let ``\\w``, ``\\s`` and ``\\d`` match all characters of ECMA-262, not only those common to all dialects.

    Raises
    ------
    PatternError
        ``pattern`` is not a regular expression, or has look-around, back-references, word boundaries, or anchors in the
        middle.
    """
    parser = _PatternParser(pattern, EXACT if exact else NARROW, EXACT if exact else WIDE)
    alternatives = parser.parse_alternatives()
    if parser.position < len(pattern):
        parser.fail("unbalanced parenthesis")
    return "|".join(_match_whole_string(parts) for parts in _expand_anchored_groups(alternatives))


def _expand_anchored_groups(alternatives: tuple[Parts, ...]) -> list[Parts]:
    """Multiply out the groups with anchors that come first or last: ``(^a|b)c`` becomes ``^ac|bc``."""
    expanded, stack = [], list(reversed(alternatives))
    while stack:
        parts = stack.pop()
        inner = [i for i, part in enumerate(parts) if not isinstance(part, Anchor)]
        for i in {inner[0], inner[-1]} if inner else ():
            group = parts[i]
            if isinstance(group, Group) and _has_anchors(group):
                stack += [(*parts[:i], *choice, *parts[i + 1 :]) for choice in reversed(group.alternatives)]
                break
        else:
            expanded.append(parts)
        if len(expanded) + len(stack) > MAX_ALTERNATIVES:
            raise PatternError("too many alternatives with anchors")
    return expanded


def _has_anchors(group: Group) -> bool:
    return any(
        isinstance(part, Anchor) or (isinstance(part, Group) and _has_anchors(part))
        for parts in group.alternatives
        for part in parts
    )


def _match_whole_string(parts: Parts) -> str:
    """Return an alternative without its anchors, with ``ANY*`` at each end that has no anchor."""
    start = end = False
    while parts and parts[0] == Anchor(end=False):
        start, parts = True, parts[1:]
    while parts and parts[-1] == Anchor(end=True):
        end, parts = True, parts[:-1]
    return ("" if start else f"{ANY}*") + _join(parts) + ("" if end else f"{ANY}*")


def _join(parts: Parts) -> str:
    text = ""
    for part in parts:
        if isinstance(part, Anchor):
            raise PatternError(f"{'$' if part.end else '^'} in the middle of a pattern is not supported")
        text += part if isinstance(part, str) else f"(?:{'|'.join(map(_join, part.alternatives))})"
    return text


class _PatternParser:
    """Parses a pattern by recursive descent.

    Parameters
    ----------
    text : str
        The pattern.
    narrow, wide : mapping
        ``d``, ``w``, ``s`` → the characters that certainly belong to the set, and those that may belong to it.
    """

    def __init__(self, text: str, narrow: Mapping[str, str], wide: Mapping[str, str]) -> None:
        self.text, self.position, self.depth = text, 0, 0
        self.narrow, self.wide = narrow, wide

    def parse_alternatives(self) -> tuple[Parts, ...]:
        """Parse alternatives separated by ``|``, up to a closing parenthesis or the end."""
        alternatives = [self._parse_sequence()]
        while self._take("|"):
            alternatives.append(self._parse_sequence())
        return tuple(alternatives)

    def _parse_sequence(self) -> Parts:
        parts: list[str | Anchor | Group] = []
        while self.position < len(self.text) and self.text[self.position] not in "|)":
            part = self._parse_atom()
            quantifier = _QUANTIFIER.match(self.text, self.position)
            if quantifier:
                part = self._repeat(part, quantifier)
            parts.append(part)
        return tuple(parts)

    def _repeat(self, part: str | Anchor | Group, quantifier: re.Match[str]) -> str:
        """Return ``part`` with its quantifier.

        Laziness is dropped: it changes no match of a whole string.
        """
        if isinstance(part, Anchor):
            self.fail("an anchor cannot be repeated")
        low, _, high = quantifier.groups()
        if low and high and int(high) < int(low):
            self.fail(f"the repetition {quantifier[0]} has bounds in the wrong order")
        self.position = quantifier.end()
        repeated = f"(?:{_join((part,))}){quantifier[0].removesuffix('?') if quantifier[0] != '?' else '?'}"
        if _QUANTIFIER.match(self.text, self.position):
            self.fail("nothing to repeat")
        return repeated

    def _parse_atom(self) -> str | Anchor | Group:
        char = self._next()
        if char in "^$":
            return Anchor(end=char == "$")
        if char == "(":
            return self._parse_group()
        if char == "[":
            return self._parse_class()
        if char == ".":
            return DOT
        if char == "\\":
            return self._parse_escape()
        if char in "*+?" or (char == "{" and _QUANTIFIER.match(self.text, self.position - 1)):
            self.fail("nothing to repeat")
        if char == "{" and re.compile(r",\d+\}").match(self.text, self.position):  # only some dialects repeat here
            self.fail("a repetition needs a lower bound")
        return self._literal(char)

    def _parse_group(self) -> Group:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(f"parentheses are nested more than {MAX_DEPTH} levels deep")
        if self._take("?") and not self._take(":"):
            name = re.compile(r"P?<[A-Za-z_]\w*>").match(self.text, self.position)
            if not name:
                self.fail("look-around and inline flags are not supported")
            self.position = name.end()
        alternatives = self.parse_alternatives()
        if not self._take(")"):
            self.fail("a parenthesis is not closed")
        self.depth -= 1
        return Group(alternatives)

    def _parse_escape(self) -> str:
        kind = self._next()
        if kind in "bB":
            self.fail("word boundaries are not supported")
        if kind in "123456789k":
            self.fail("back-references are not supported")
        if kind.lower() in NARROW:
            return f"[{self.narrow[kind]}]" if kind.islower() else f"[^{self.wide[kind.lower()]}]"
        return self._parse_property(kind) if kind in "pP" else self._literal(self._parse_character(kind))

    def _literal(self, char: str) -> str:
        if char < " " and char not in "\b\t\n\f\r":
            self.fail("control characters are not supported")
        return char if char.isascii() and char.isalnum() else _code(char)

    def _parse_class(self) -> str:
        """Parse a character class.

        In a negated class, sets are wide, so the characters that remain are narrow.
        """
        negated = self._take("^")
        items = []
        while not self._take("]"):
            low = self._parse_class_item(negated)
            if self._peek() == "-" and self.text[self.position + 1 : self.position + 2] not in ("]", ""):
                self.position += 1
                high = self._parse_class_item(negated)
                if len(low) > 1 or len(high) > 1 or high < low:
                    self.fail("a character class has an invalid range")
                items.append(f"{_code(low)}-{_code(high)}")
            else:
                items.append(low if len(low) > 1 else _code(low))
        if not items:
            if not negated:
                self.fail("an empty character class matches nothing")
            return ANY
        return f"[{'^' * negated}{''.join(items)}]"

    def _parse_class_item(self, negated: bool) -> str:
        """Return a single character, or the translation of a set such as ``\\w``, which is longer."""
        char = self._next()
        if char != "\\":
            return char
        kind = self._next()
        if kind.lower() in NARROW:
            inner, outer = (self.wide, self.narrow) if negated else (self.narrow, self.wide)
            return inner[kind] if kind.islower() else f"[^{outer[kind.lower()]}]"
        if kind in "pP":
            return self._parse_property(kind)
        return "\b" if kind == "b" else self._parse_character(kind)

    def _parse_property(self, kind: str) -> str:
        match = re.compile(r"\{[A-Za-z_]+(?:=[A-Za-z_]+)?\}").match(self.text, self.position)
        if not match:
            self.fail(f"\\{kind} needs a Unicode property in braces, as in \\{kind}{{L}}")
        self.position = match.end()
        return f"\\{kind}{match[0]}"

    def _parse_character(self, kind: str) -> str:
        """Return the character of an escape sequence, after its letter ``kind`` has been read."""
        if kind in _CONTROLS:
            return _CONTROLS[kind]
        if kind == "0" and self._peek() not in tuple(string.digits):
            return "\0"
        if kind == "c" and self._peek() in tuple(string.ascii_letters):
            return chr(ord(self._next()) % 32)
        if kind == "x":
            return chr(self._parse_hex(2))
        if kind == "u":
            return self._parse_unicode()
        if kind in string.ascii_letters + string.digits:
            self.fail(f"unknown escape sequence \\{kind}")
        return kind

    def _parse_unicode(self) -> str:
        """Parse ``\\u{1F600}``, ``\\u00e9`` or a surrogate pair, without its first ``\\u``."""
        if self._take("{"):
            end = self.text.find("}", self.position)
            code = self._parse_hex(end - self.position)
            self.position += 1
        else:
            code = self._parse_hex(4)
            if 0xD800 <= code < 0xDC00 and self.text.startswith("\\u", self.position):
                self.position += 2
                code = 0x10000 + (code - 0xD800) * 0x400 + self._parse_hex(4) - 0xDC00
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            self.fail("an escape sequence is not a Unicode character")
        return chr(code)

    def _parse_hex(self, n: int) -> int:
        """Parse ``n`` hexadecimal digits."""
        digits = self.text[self.position : self.position + max(n, 0)]
        if not 0 < len(digits) == n <= 6 or not set(digits) <= set(string.hexdigits):
            self.fail("an escape sequence has invalid hexadecimal digits")
        self.position += n
        return int(digits, 16)

    def _next(self) -> str:
        if self.position == len(self.text):
            self.fail("the pattern is incomplete")
        self.position += 1
        return self.text[self.position - 1]

    def _peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def _take(self, text: str) -> bool:
        """Skip ``text`` if it comes next; return whether it did."""
        found = self.text.startswith(text, self.position)
        self.position += len(text) * found
        return found

    def fail(self, message: str) -> NoReturn:
        """Raise PatternError with the current position."""
        raise PatternError(f"{message} (at character {self.position})")


def _code(char: str) -> str:
    return f"\\x{{{ord(char):x}}}"
