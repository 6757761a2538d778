"""Keeps saved states of slots in memory.

A conversation that continues later need not be evaluated again.

States are plain bytes here; the module is independent of slots and backends.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

from llamafw.engine.slots import common_prefix, last_cut
from llamafw.types import Bytes, Ints


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """An evaluated prefix and its saved state."""

    tokens: Ints
    state: Bytes
    cuts: Collection[int] | None = None  # as in `Slot`

    def n_reused(self, prompt: Ints) -> int:
        """Return how many leading tokens of ``prompt`` are left if the state is restored and cut for it."""
        return last_cut(self.cuts, len(self.tokens), common_prefix(self.tokens, prompt))


class PromptCache:
    """Saved states, least recently used first.

    Parameters
    ----------
    limit : int or None
        Maximum total size in bytes; None: no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.n_bytes = 0
        self._entries: OrderedDict[int, Entry] = OrderedDict()  # by id

    def accepts(self, n_bytes: int) -> bool:
        """Return whether a state of this size fits at all."""
        return self.limit is None or n_bytes <= self.limit

    def best(self, prompt: Ints) -> tuple[Entry | None, int]:
        """Return the entry that saves the most tokens of ``prompt``, and their number.

        The entry counts as used.
        """
        best, longest = None, 0
        for entry in self._entries.values():
            n = entry.n_reused(prompt)
            if n > longest:
                best, longest = entry, n
        if best is not None:
            self._entries.move_to_end(id(best))
        return best, longest

    def holds(self, tokens: Ints) -> bool:
        """Return whether an entry begins with all of ``tokens`` and can be cut there."""
        return any(entry.n_reused(tokens) == len(tokens) for entry in self._entries.values())

    def add(self, tokens: Ints, state: Bytes, cuts: Collection[int] | None = None) -> None:
        """Add a state, which can be cut at ``cuts``.

        Entries that can be made from it are removed, then the least recently used ones until it fits.
        """
        added = Entry(tokens, state, cuts)
        for entry in list(self._entries.values()):
            if added.n_reused(entry.tokens) == len(entry.tokens):
                self._remove(entry)
        self._entries[id(added)] = added
        self.n_bytes += state.nbytes
        while self.limit is not None and self.n_bytes > self.limit:
            self._remove(next(iter(self._entries.values())))

    def _remove(self, entry: Entry) -> None:
        del self._entries[id(entry)]
        self.n_bytes -= entry.state.nbytes
