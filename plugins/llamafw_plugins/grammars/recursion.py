"""Left recursion in context-free grammars, found in time linear in their size. It knows no grammar language."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

TERMINAL = ""  # the symbol of whatever is a character, and so neither nothing nor a rule

Chains = list[list[str]]
"""The alternatives of a symbol: lists of symbols."""
Symbols = dict[str, Chains]


def left(symbols: Mapping[str, Chains]) -> str | None:
    """Return a symbol that can begin with itself, if there is one."""
    nothing = _nullable(symbols)
    begins = {name: [one for chain in chains for one in _first(chain, nothing)] for name, chains in symbols.items()}
    done: set[str] = set()
    for start in symbols:
        path: dict[str, Iterator[str]] = {} if start in done else {start: iter(begins[start])}
        while path:
            name, following = next(reversed(path.items()))
            one = next(following, None)
            if one is None:
                done.add(name)
                del path[name]
            elif one in path:
                circle = list(path)[list(path).index(one) :]
                return min(circle, key=lambda name: name.startswith("("))  # a rule, not what is in parentheses
            elif one not in done:
                path[one] = iter(begins[one])
    return None


def _first(chain: list[str], nothing: set[str]) -> Iterator[str]:
    """Yield the symbols that a chain may begin with."""
    for symbol in chain:
        if symbol != TERMINAL:
            yield symbol
        if symbol not in nothing:
            return


def _nullable(symbols: Mapping[str, Chains]) -> set[str]:
    """Return the symbols that may be nothing: for each chain, count what in it is not known to be."""
    left: list[int] = []
    owners: list[str] = []
    uses: dict[str, list[int]] = defaultdict(list)  # symbol → chains, once per use
    for name, chains in symbols.items():
        for chain in chains:
            for symbol in chain:
                uses[symbol].append(len(left))
            left.append(len(chain))
            owners.append(name)
    found: set[str] = set()
    ready = [name for name, n in zip(owners, left, strict=True) if n == 0]
    while ready:
        name = ready.pop()
        if name in found:
            continue
        found.add(name)
        for i in uses[name]:
            left[i] -= 1
            if left[i] == 0:
                ready.append(owners[i])
    return found
