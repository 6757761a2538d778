"""GBNF, llama.cpp's grammar language, rewritten as Lark for llguidance. It knows nothing of tokens.

The dialect: https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md. Every character is a terminal of its
own: llguidance's lexer takes the longest match, which would lose ``"a" "bc" | "ab" "d"``.
"""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from typing import NoReturn

from llamafw_plugins.grammars import recursion

MAX_LENGTH = 2**16  # characters
MAX_DEPTH = 32  # of parentheses
MAX_REPEAT = 2000  # of {m,n}, as in llama.cpp
_NAME = frozenset(string.ascii_letters + string.digits + "-_")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "[": "[", "]": "]", "-": "-", "^": "^"}
_HEX = {"x": 2, "u": 4, "U": 8}  # digits


class GbnfError(ValueError):
    """The grammar is wrong; the message says where."""


@dataclass(frozen=True, slots=True)
class Item:
    """One element of a sequence, as Lark writes it, and the symbol that stands for it in `recursion`."""

    lark: str
    symbol: str = recursion.TERMINAL


def to_lark(text: str) -> str:
    """Return the Lark grammar of the same strings.

    Raises
    ------
    GbnfError
        The text is no GBNF, a rule is missing, or one begins with itself, which llama.cpp does not allow either.
    """
    if len(text) > MAX_LENGTH:
        raise GbnfError(f"it has more than {MAX_LENGTH} characters")
    parser = _Parser(text)
    rules = parser.rules()
    if "root" not in rules:
        raise GbnfError("there is no rule 'root'")
    for name, at in parser.used.items():
        if name not in rules:
            parser.fail(f"there is no rule {name!r}", at)
    if (circle := recursion.left(parser.symbols)) is not None:
        raise GbnfError(f"the rule {circle!r} begins with itself (left recursion)")
    lines = [f"start: {parser.names['root']}"]
    lines += [f"{parser.names[name]}: {lark}" for name, lark in rules.items()]
    return "\n".join(lines) + "\n"


class _Parser:
    """Reads GBNF by recursive descent."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, 0, 0
        self.used: dict[str, int] = {}  # rule → where it is first named
        self.names: dict[str, str] = {}  # rule → its name in Lark, which has fewer letters
        self.symbols: recursion.Symbols = {}  # of rules, and of what is in parentheses or may be left out

    def rules(self) -> dict[str, str]:
        """Return all rules, as Lark writes them."""
        found: dict[str, str] = {}
        self._space(newlines=True)
        while self.at < len(self.text):
            name = self._name()
            if name in found:
                self._fail(f"the rule {name!r} is defined twice")
            self._space()
            self._take("::=")
            self._space(newlines=True)
            found[name], self.symbols[name] = self._alternatives(nested=False)
            self._lark_name(name)
            if self.at < len(self.text) and self.text[self.at] not in "\r\n":
                self._fail(f"unexpected {self.text[self.at]!r}")
            self._space(newlines=True)
        return found

    def _alternatives(self, *, nested: bool) -> tuple[str, recursion.Chains]:
        chains = [self._sequence(nested=nested)]
        while self._peek() == "|":
            self.at += 1
            self._space(newlines=True)
            chains.append(self._sequence(nested=nested))
        lark = " | ".join(" ".join(item.lark for item in chain) for chain in chains)
        return lark, [[item.symbol for item in chain] for chain in chains]

    def _sequence(self, *, nested: bool) -> list[Item]:
        items: list[Item] = []
        while self._peek() not in ("", "|", ")", "\r", "\n"):
            items += self._repeated(self._element(nested=nested))
            self._space(newlines=nested)
        return items

    def _element(self, *, nested: bool) -> list[Item]:
        char = self._peek()
        if char == '"':
            return self._literal()
        if char == "[":
            return [self._char_class()]
        if char == ".":
            self.at += 1
            return [Item("/(?s:.)/")]
        if char == "(":
            return [self._group()]
        if char not in _NAME:
            self._fail(f"unexpected {char!r}")
        name = self._name()
        self.used.setdefault(name, self.at)
        return [Item(self._lark_name(name), name)]

    def _group(self) -> Item:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self._fail("the parentheses are nested too deeply")
        self.at += 1
        self._space(newlines=True)
        lark, chains = self._alternatives(nested=True)
        self._take(")")
        self.depth -= 1
        return Item(f"({lark})" if lark.strip(" |") else '""', self._symbol(chains))

    def _symbol(self, chains: recursion.Chains) -> str:
        """Return a new symbol, which no rule can be called."""
        symbol = f"({len(self.symbols)}"
        self.symbols[symbol] = chains
        return symbol

    def _repeated(self, items: list[Item]) -> list[Item]:
        """Apply ``*``, ``+``, ``?`` or ``{m,n}``, if one follows, to what it follows: of a literal, all of it."""
        char = self._peek()
        if char not in ("*", "+", "?", "{"):
            return items
        if char == "{":
            low, high = self._bounds()
        else:
            self.at += 1
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[char]
        whole = items[0].lark if len(items) == 1 else f"({' '.join(item.lark for item in items)})"
        if not items or high == 0:
            return []
        bounds = f"{{{low},{'' if high is None else high}}}"
        chains = [[item.symbol for item in items], *([[]] if low == 0 else [])]
        self._space()
        return self._repeated([Item(f"({whole}){bounds}", self._symbol(chains))])

    def _bounds(self) -> tuple[int, int | None]:
        self.at += 1
        self._space()
        low = self._number() if self._peek() != "," else 0
        self._space()
        high: int | None = low
        if self._peek() == ",":
            self.at += 1
            self._space()
            high = self._number() if self._peek() != "}" else None
            self._space()
        self._take("}")
        if max(low, high or 0) > MAX_REPEAT:
            self._fail(f"a repetition is at most {MAX_REPEAT}")
        if high is not None and high < low:
            self._fail(f"the repetition {{{low},{high}}} is empty")
        return low, high

    # --- characters

    def _literal(self) -> list[Item]:
        self.at += 1
        items = []
        while self._peek() != '"':
            items.append(Item(json.dumps(self._char(), ensure_ascii=False)))
        self.at += 1
        return items

    def _char_class(self) -> Item:
        self.at += 1
        negated = self._peek() == "^"
        self.at += negated
        ranges = []
        while self._peek() != "]":
            low = high = self._char()
            if self._peek() == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                high = self._char()
            if high < low:
                self._fail(f"the range {low}-{high} is empty")
            ranges.append(f"\\u{{{ord(low):x}}}-\\u{{{ord(high):x}}}")
        self.at += 1
        if not ranges and not negated:
            self._fail("an empty class matches nothing")
        return Item(f"/[{'^' * negated}{''.join(ranges)}]/" if ranges else "/(?s:.)/")

    def _char(self) -> str:
        """Take one character, written as itself or as an escape."""
        char = self._peek()
        if char == "":
            self._fail("the text ends within quotes or brackets")
        self.at += 1
        if char != "\\":
            return char
        kind = self._peek()
        self.at += 1
        if kind in _ESCAPES:
            return _ESCAPES[kind]
        digits = self.text[self.at : self.at + _HEX.get(kind, 0)]
        if kind not in _HEX or len(digits) != _HEX[kind] or not set(digits) <= set(string.hexdigits):
            self._fail(f"unknown escape \\{kind}")
        self.at += len(digits)
        code = int(digits, 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            self._fail(f"\\{kind}{digits} is no character")
        return chr(code)

    # --- words

    def _name(self) -> str:
        start = self.at
        while self._peek() in _NAME and self.at < len(self.text):
            self.at += 1
        if self.at == start:
            self._fail("expected the name of a rule")
        return self.text[start : self.at]

    def _number(self) -> int:
        start = self.at
        while self._peek() in string.digits and self.at < len(self.text):
            self.at += 1
        if not 0 < self.at - start < 10:
            self._fail("expected a number")
        return int(self.text[start : self.at])

    def _take(self, word: str) -> None:
        if not self.text.startswith(word, self.at):
            self._fail(f"expected {word!r}")
        self.at += len(word)

    def _space(self, *, newlines: bool = False) -> None:
        """Skip blanks and comments, and line ends if a rule may go on behind them."""
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif char in " \t" or (newlines and char in "\r\n"):
                self.at += 1
            else:
                return

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _lark_name(self, name: str) -> str:
        return self.names.setdefault(name, f"r{len(self.names)}")

    def fail(self, message: str, at: int) -> NoReturn:
        """Raise GbnfError, with the line of a place in the text."""
        line = self.text.count("\n", 0, at) + 1
        raise GbnfError(f"line {line}: {message}")

    def _fail(self, message: str) -> NoReturn:
        self.fail(message, self.at)
