"""States of slots kept in memory, so that a conversation need not be evaluated again when others had its slot since.

It knows nothing of slots and backends: a state is bytes, and the tokens they belong to.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from llamafw.engine.slots import common_prefix
from llamafw.types import Bytes, Ints


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A prefix that was evaluated, and the state of a cache that holds it."""

    tokens: Ints
    state: Bytes


class PromptCache:
    """Entries, the least recently used first, of at most ``limit`` bytes together; None: any number."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.n_bytes = 0
        self._entries: OrderedDict[int, Entry] = OrderedDict()  # by id

    def takes(self, n_bytes: int) -> bool:
        """Return whether an entry of this size can be kept at all."""
        return self.limit is None or n_bytes <= self.limit

    def best(self, prompt: Ints) -> tuple[Entry | None, int]:
        """Return the entry that shares the longest prefix with ``prompt``, and its length; the entry counts as used."""
        found, longest = None, 0
        for entry in self._entries.values():
            n = common_prefix(entry.tokens, prompt)
            if n > longest:
                found, longest = entry, n
        if found is not None:
            self._entries.move_to_end(id(found))
        return found, longest

    def holds(self, tokens: Ints) -> bool:
        """Return whether an entry begins with all of ``tokens``."""
        return any(common_prefix(entry.tokens, tokens) == len(tokens) for entry in self._entries.values())

    def add(self, tokens: Ints, state: Bytes) -> None:
        """Keep a state. Entries that are a prefix of it go, and the least recently used ones if there is no room."""
        for entry in list(self._entries.values()):
            if common_prefix(entry.tokens, tokens) == len(entry.tokens):
                self._drop(entry)
        entry = Entry(tokens, state)
        self._entries[id(entry)] = entry
        self.n_bytes += state.nbytes
        while self.limit is not None and self.n_bytes > self.limit:
            self._drop(next(iter(self._entries.values())))

    def _drop(self, entry: Entry) -> None:
        del self._entries[id(entry)]
        self.n_bytes -= entry.state.nbytes
