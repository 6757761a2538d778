"""Translates GBNF, llama.cpp's grammar language, to Lark for llguidance.

Independent of tokens.

Reference: https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md. Each character becomes a terminal of
its own, because llguidance's lexer takes the longest match and would lose ``abc`` in ``"a" "bc" | "ab" "d"``.
"""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from typing import NoReturn

from llamafw_plugins.grammars.left_recursion import TERMINAL, Alternatives, find_left_recursion

MAX_LENGTH = 2**16  # characters
MAX_DEPTH = 32  # levels of parentheses
MAX_REPEAT = 2000  # m and n of {m,n}, as in llama.cpp
_NAME_CHARACTERS = frozenset(string.ascii_letters + string.digits + "-_")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "[": "[", "]": "]", "-": "-", "^": "^"}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}


class GbnfError(ValueError):
    """The grammar is invalid; the message says where."""


@dataclass(frozen=True, slots=True)
class Item:
    """One element of a sequence."""

    lark: str  # the element in Lark
    symbol: str = TERMINAL  # the element's name for `find_left_recursion`


def to_lark(text: str) -> str:
    """Return a Lark grammar that matches the same texts as the GBNF grammar ``text``.

    Raises
    ------
    GbnfError
        ``text`` is not valid GBNF, a rule is missing, or a rule is left-recursive, which llama.cpp refuses too.
    """
    if len(text) > MAX_LENGTH:
        raise GbnfError(f"it has {len(text)} characters; the maximum is {MAX_LENGTH}")
    parser = _GbnfParser(text)
    rules = parser.parse_rules()

    if "root" not in rules:
        raise GbnfError("the rule 'root' is missing")
    for name, position in parser.uses.items():
        if name not in rules:
            parser.fail_at(position, f"the rule {name!r} is not defined")
    if (recursive := find_left_recursion(parser.symbols)) is not None:
        raise GbnfError(f"the rule {recursive!r} is left-recursive: it can begin with itself")

    lines = [f"start: {parser.names['root']}"]
    lines += [f"{parser.names[name]}: {lark}" for name, lark in rules.items()]
    return "\n".join(lines) + "\n"


class _GbnfParser:
    """Parses GBNF by recursive descent.

    Line ends are white space inside parentheses (``nested``); elsewhere they end a rule.
    """

    def __init__(self, text: str) -> None:
        self.text, self.position, self.depth = text, 0, 0
        self.uses: dict[str, int] = {}  # rule → position of its first use
        self.names: dict[str, str] = {}  # rule → its name in Lark, which allows fewer characters
        self.symbols: dict[str, Alternatives] = {}  # of rules, groups and repetitions

    def parse_rules(self) -> dict[str, str]:
        """Return the Lark translation of each rule, by its GBNF name."""
        rules: dict[str, str] = {}
        self._skip_space(newlines=True)
        while self.position < len(self.text):
            name = self._parse_name()
            if name in rules:
                self._fail(f"the rule {name!r} is defined twice")
            self._skip_space()
            self._expect("::=")
            self._skip_space(newlines=True)

            rules[name], self.symbols[name] = self._parse_alternatives(nested=False)
            self._lark_name(name)
            if self.position < len(self.text) and self.text[self.position] not in "\r\n":
                self._fail(f"unexpected {self.text[self.position]!r}")
            self._skip_space(newlines=True)
        return rules

    def _parse_alternatives(self, *, nested: bool) -> tuple[str, Alternatives]:
        sequences = [self._parse_sequence(nested=nested)]
        while self._peek() == "|":
            self.position += 1
            self._skip_space(newlines=True)
            sequences.append(self._parse_sequence(nested=nested))
        lark = " | ".join(" ".join(item.lark for item in sequence) for sequence in sequences)
        return lark, [[item.symbol for item in sequence] for sequence in sequences]

    def _parse_sequence(self, *, nested: bool) -> list[Item]:
        items: list[Item] = []
        while self._peek() not in ("", "|", ")", "\r", "\n"):
            items += self._parse_repetition(self._parse_element())
            self._skip_space(newlines=nested)
        return items

    def _parse_element(self) -> list[Item]:
        """Parse a literal, character class, dot, group or rule name; a literal is one item per character."""
        char = self._peek()
        if char == '"':
            return self._parse_literal()
        if char == "[":
            return [self._parse_class()]
        if char == ".":
            self.position += 1
            return [Item("/(?s:.)/")]
        if char == "(":
            return [self._parse_group()]
        if char not in _NAME_CHARACTERS:
            self._fail(f"unexpected {char!r}")
        name = self._parse_name()
        self.uses.setdefault(name, self.position)
        return [Item(self._lark_name(name), name)]

    def _parse_group(self) -> Item:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self._fail(f"parentheses are nested more than {MAX_DEPTH} levels deep")
        self.position += 1
        self._skip_space(newlines=True)
        lark, alternatives = self._parse_alternatives(nested=True)
        self._expect(")")
        self.depth -= 1
        return Item(f"({lark})" if lark.strip(" |") else '""', self._new_symbol(alternatives))

    def _new_symbol(self, alternatives: Alternatives) -> str:
        """Add a symbol and return its name, which begins with ``(`` and so differs from all names of rules."""
        symbol = f"({len(self.symbols)}"
        self.symbols[symbol] = alternatives
        return symbol

    def _parse_repetition(self, items: list[Item]) -> list[Item]:
        """Parse any ``*``, ``+``, ``?`` or ``{m,n}`` that follows, and return ``items``, repeated as a whole."""
        char = self._peek()
        if char not in ("*", "+", "?", "{"):
            return items

        if char == "{":
            low, high = self._parse_bounds()
        else:
            self.position += 1
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[char]
        if not items or high == 0:
            return []

        whole = items[0].lark if len(items) == 1 else f"({' '.join(item.lark for item in items)})"
        bounds = f"{{{low},{'' if high is None else high}}}"
        alternatives = [[item.symbol for item in items], *([[]] if low == 0 else [])]
        self._skip_space()
        return self._parse_repetition([Item(f"({whole}){bounds}", self._new_symbol(alternatives))])

    def _parse_bounds(self) -> tuple[int, int | None]:
        """Parse ``{m}``, ``{m,}``, ``{,n}`` or ``{m,n}``; return the lower and the upper bound, which may be None."""
        self.position += 1
        self._skip_space()
        low = self._parse_number() if self._peek() != "," else 0
        self._skip_space()
        high: int | None = low
        if self._peek() == ",":
            self.position += 1
            self._skip_space()
            high = self._parse_number() if self._peek() != "}" else None
            self._skip_space()
        self._expect("}")

        if max(low, high or 0) > MAX_REPEAT:
            self._fail(f"the repetition count {max(low, high or 0)} exceeds the maximum of {MAX_REPEAT}")
        if high is not None and high < low:
            self._fail(f"the repetition {{{low},{high}}} has bounds in the wrong order")
        return low, high

    # --- characters

    def _parse_literal(self) -> list[Item]:
        self.position += 1
        items = []
        while self._peek() != '"':
            items.append(Item(json.dumps(self._parse_character(), ensure_ascii=False)))
        self.position += 1
        return items

    def _parse_class(self) -> Item:
        self.position += 1
        negated = self._peek() == "^"
        self.position += negated
        ranges = []
        while self._peek() != "]":
            low = high = self._parse_character()
            if self._peek() == "-" and self.text[self.position + 1 : self.position + 2] not in ("]", ""):
                self.position += 1
                high = self._parse_character()
            if high < low:
                self._fail(f"the range {low}-{high} has bounds in the wrong order")
            ranges.append(f"\\u{{{ord(low):x}}}-\\u{{{ord(high):x}}}")
        self.position += 1
        if not ranges and not negated:
            self._fail("an empty character class matches nothing")
        return Item(f"/[{'^' * negated}{''.join(ranges)}]/" if ranges else "/(?s:.)/")

    def _parse_character(self) -> str:
        """Parse one character of a literal or class, written as itself or as an escape sequence."""
        char = self._peek()
        if char == "":
            self._fail("a literal or character class is not closed")
        self.position += 1
        if char != "\\":
            return char

        kind = self._peek()
        self.position += 1
        if kind in _ESCAPES:
            return _ESCAPES[kind]
        digits = self.text[self.position : self.position + _HEX_DIGITS.get(kind, 0)]
        if kind not in _HEX_DIGITS or len(digits) != _HEX_DIGITS[kind] or not set(digits) <= set(string.hexdigits):
            self._fail(f"unknown escape sequence \\{kind}")
        self.position += len(digits)
        code = int(digits, 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            self._fail(f"\\{kind}{digits} is not a Unicode character")
        return chr(code)

    # --- words and spaces

    def _parse_name(self) -> str:
        start = self.position
        while self._peek() in _NAME_CHARACTERS and self.position < len(self.text):
            self.position += 1
        if self.position == start:
            self._fail("expected a rule name")
        return self.text[start : self.position]

    def _parse_number(self) -> int:
        start = self.position
        while self._peek() in string.digits and self.position < len(self.text):
            self.position += 1
        if not 0 < self.position - start < 10:
            self._fail("expected a number")
        return int(self.text[start : self.position])

    def _expect(self, word: str) -> None:
        if not self.text.startswith(word, self.position):
            self._fail(f"expected {word!r}")
        self.position += len(word)

    def _skip_space(self, *, newlines: bool = False) -> None:
        """Skip blanks and comments, and line ends too if ``newlines``."""
        while self.position < len(self.text):
            char = self.text[self.position]
            if char == "#":
                end = self.text.find("\n", self.position)
                self.position = len(self.text) if end < 0 else end
            elif char in " \t" or (newlines and char in "\r\n"):
                self.position += 1
            else:
                return

    def _peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def _lark_name(self, name: str) -> str:
        return self.names.setdefault(name, f"r{len(self.names)}")

    def fail_at(self, position: int, message: str) -> NoReturn:
        """Raise GbnfError with the line number of a position in the text."""
        line = self.text.count("\n", 0, position) + 1
        raise GbnfError(f"line {line}: {message}")

    def _fail(self, message: str) -> NoReturn:
        self.fail_at(self.position, message)
