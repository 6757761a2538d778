"""GBNF, llama.cpp's grammar language, rewritten as Lark for llguidance. It knows nothing of tokens.

The dialect: https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md. Every character is a terminal of its
own: llguidance's lexer takes the longest match, which would lose ``"a" "bc" | "ab" "d"``.
"""
from __future__ import annotations

import json
import string
from dataclasses import dataclass, field
from typing import NoReturn

MAX_DEPTH = 64  # of parentheses
MAX_REPEAT = 2000  # of {m,n}, as in llama.cpp
_NAME = frozenset(string.ascii_letters + string.digits + "-_")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "[": "[", "]": "]", "-": "-", "^": "^"}
_HEX = {"x": 2, "u": 4, "U": 8}  # digits


class GbnfError(ValueError):
    """The grammar is wrong; the message says where."""


@dataclass(frozen=True, slots=True)
class Item:
    """One element of a sequence, as Lark writes it."""

    lark: str
    nullable: bool  # it may be nothing
    first: frozenset[str] = frozenset()  # rules that it may begin with


@dataclass(slots=True)
class Rule:
    """One rule, as Lark writes it."""

    lark: str = ""
    nullable: bool = False
    first: set[str] = field(default_factory=set)  # rules that it may begin with, if what precedes them may be nothing
    chains: list[list[Item]] = field(default_factory=list)


def to_lark(text: str) -> str:
    """Return the Lark grammar of the same strings.

    Raises
    ------
    GbnfError
        The text is no GBNF, a rule is missing, or one begins with itself, which llama.cpp does not allow either.
    """
    parser = _Parser(text)
    rules = parser.rules()
    if "root" not in rules:
        raise GbnfError("there is no rule 'root'")
    for name, line in parser.used.items():
        if name not in rules:
            raise GbnfError(f"line {line}: there is no rule {name!r}")
    _refuse_left_recursion(rules)
    lines = [f"start: {parser.names['root']}"]
    lines += [f"{parser.names[name]}: {rule.lark}" for name, rule in rules.items()]
    return "\n".join(lines) + "\n"


class _Parser:
    """Reads GBNF by recursive descent."""

    def __init__(self, text: str) -> None:
        self.text, self.at, self.depth = text, 0, 0
        self.used: dict[str, int] = {}  # rule → the line that first names it
        self.names: dict[str, str] = {}  # rule → its name in Lark, which has fewer letters

    def rules(self) -> dict[str, Rule]:
        """Return all rules."""
        found: dict[str, Rule] = {}
        self._space(newlines=True)
        while self.at < len(self.text):
            name = self._name()
            if name in found:
                self._fail(f"the rule {name!r} is defined twice")
            self._space()
            self._take("::=")
            self._space(newlines=True)
            found[name] = rule = Rule()
            rule.lark, rule.chains = self._alternatives(nested=False)
            self._lark_name(name)
            if self.at < len(self.text) and self.text[self.at] not in "\r\n":
                self._fail(f"unexpected {self.text[self.at]!r}")
            self._space(newlines=True)
        return found

    def _alternatives(self, *, nested: bool) -> tuple[str, list[list[Item]]]:
        chains = [self._sequence(nested=nested)]
        while self._peek() == "|":
            self.at += 1
            self._space(newlines=True)
            chains.append(self._sequence(nested=nested))
        return " | ".join(" ".join(item.lark for item in chain) for chain in chains), chains

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
            return [Item("/(?s:.)/", nullable=False)]
        if char == "(":
            return [self._group()]
        if char not in _NAME:
            self._fail(f"unexpected {char!r}")
        name = self._name()
        self.used.setdefault(name, self._line())
        return [Item(self._lark_name(name), nullable=False, first=frozenset({name}))]

    def _group(self) -> Item:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self._fail("the parentheses are nested too deeply")
        self.at += 1
        self._space(newlines=True)
        lark, chains = self._alternatives(nested=True)
        self._take(")")
        self.depth -= 1
        nullable = any(all(item.nullable for item in chain) for chain in chains)
        first = frozenset(name for chain in chains for item in _leading(chain) for name in item.first)
        return Item(f"({lark})" if lark.strip(" |") else '""', nullable, first)

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
        first = frozenset(name for item in items for name in item.first)
        if not items or high == 0:
            return []
        bounds = f"{{{low},{'' if high is None else high}}}"
        repeated = Item(f"({whole}){bounds}", low == 0 or all(item.nullable for item in items), first)
        self._space()
        return self._repeated([repeated])

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
            items.append(Item(json.dumps(self._char(), ensure_ascii=False), nullable=False))
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
        return Item(f"/[{'^' * negated}{''.join(ranges)}]/" if ranges else "/(?s:.)/", nullable=False)

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

    def _line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1

    def _fail(self, message: str) -> NoReturn:
        raise GbnfError(f"line {self._line()}: {message}")


def _leading(chain: list[Item]) -> list[Item]:
    """Return the items that may come first: up to the first that cannot be nothing."""
    stop = next((i for i, item in enumerate(chain) if not item.nullable), len(chain) - 1)
    return chain[: stop + 1]


def _refuse_left_recursion(rules: dict[str, Rule]) -> None:
    """Raise GbnfError if a rule can begin with itself."""
    changed = True
    while changed:  # what may be nothing depends on what may be nothing
        changed = False
        for rule in rules.values():
            for chain in rule.chains:
                chain[:] = [_settled(item, rules) for item in chain]
                if not rule.nullable and all(item.nullable for item in chain):
                    rule.nullable = changed = True
    begins = {
        name: {first for chain in rule.chains for item in _leading(chain) for first in item.first}
        for name, rule in rules.items()
    }
    for name in rules:
        seen, left = set[str](), [name]
        while left:
            for first in begins[left.pop()]:
                if first == name:
                    raise GbnfError(f"the rule {name!r} begins with itself (left recursion)")
                if first not in seen:
                    seen.add(first)
                    left.append(first)


def _settled(item: Item, rules: dict[str, Rule]) -> Item:
    """Return a reference to a rule that may be nothing as an item that may."""
    if item.nullable or len(item.first) != 1 or not rules[next(iter(item.first))].nullable:
        return item
    return Item(item.lark, nullable=item.lark.startswith("r"), first=item.first)
