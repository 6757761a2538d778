"""Finds left recursion in context-free grammars, in linear time.

Independent of any grammar language.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

TERMINAL = ""  # the symbol that stands for any character

Alternatives = list[list[str]]
"""The sequences of symbols that one symbol can stand for."""


def find_left_recursion(symbols: Mapping[str, Alternatives]) -> str | None:
    """Return a symbol that can begin with itself, or None.

    Parameters
    ----------
    symbols : mapping
        The alternatives of every symbol except `TERMINAL`. Names of groups begin with ``(``, names of rules do not.
    """
    nullable = _nullable_symbols(symbols)
    beginnings = {
        name: [symbol for sequence in alternatives for symbol in _first_symbols(sequence, nullable)]
        for name, alternatives in symbols.items()
    }

    done: set[str] = set()
    for start in symbols:
        path: dict[str, Iterator[str]] = {} if start in done else {start: iter(beginnings[start])}
        while path:  # depth first, without recursion
            name, remaining = next(reversed(path.items()))
            symbol = next(remaining, None)
            if symbol is None:
                done.add(name)
                del path[name]
            elif symbol in path:
                cycle = list(path)[list(path).index(symbol) :]
                return min(cycle, key=lambda name: name.startswith("("))  # preferably a rule: users know its name
            elif symbol not in done:
                path[symbol] = iter(beginnings[symbol])
    return None


def _first_symbols(sequence: list[str], nullable: set[str]) -> Iterator[str]:
    """Yield the symbols that a sequence may begin with."""
    for symbol in sequence:
        if symbol != TERMINAL:
            yield symbol
        if symbol not in nullable:
            return


def _nullable_symbols(symbols: Mapping[str, Alternatives]) -> set[str]:
    """Return the symbols that may be empty.

    A sequence can be empty if all its symbols can. Each one has a counter of the symbols not yet known to be nullable.
    """
    n_unknown: list[int] = []  # per sequence
    owners: list[str] = []  # per sequence, the symbol that it is an alternative of
    uses: dict[str, list[int]] = defaultdict(list)  # symbol → sequences, once per occurrence
    for name, alternatives in symbols.items():
        for sequence in alternatives:
            for symbol in sequence:
                uses[symbol].append(len(n_unknown))
            n_unknown.append(len(sequence))
            owners.append(name)

    nullable: set[str] = set()
    queue = [name for name, n in zip(owners, n_unknown, strict=True) if n == 0]
    while queue:
        name = queue.pop()
        if name in nullable:
            continue
        nullable.add(name)
        for i in uses[name]:
            n_unknown[i] -= 1
            if n_unknown[i] == 0:
                queue.append(owners[i])
    return nullable
