"""Keeps saved states of slots in memory.

A conversation that continues later need not be evaluated again. States for which there is no space go to the disk, if
there is a `DiskCache`.

States are plain bytes here; the module is independent of slots and backends.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from llamafw.engine.slots import common_prefix, last_cut
from llamafw.types import Bytes, Ints, Strengths

if TYPE_CHECKING:
    from llamafw.engine.disk_cache import DiskCache


_MIN_FREE_BYTES = 2**28  # the cache shrinks if less memory than this is free
_CHECK_SECONDS = 1.0  # how often `relieve` looks


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """An evaluated prefix and its saved state."""

    tokens: Ints
    state: Bytes
    cuts: Collection[int] | None = None  # as in `Slot`
    adapters: Strengths = ()  # as in `Slot`

    def n_reused(self, prompt: Ints, adapters: Strengths = ()) -> int:
        """Return how many leading tokens of ``prompt`` are left if the state is restored and cut for it."""
        if self.adapters != adapters:
            return 0
        return last_cut(self.cuts, len(self.tokens), common_prefix(self.tokens, prompt))


class PromptCache:
    """Saved states, least recently used first.

    Parameters
    ----------
    limit : int or None
        Maximum total size in bytes; None: no limit.
    disk : DiskCache, optional
        Receives the states that are removed.
    free_memory : callable, optional
        Returns how many bytes of memory are free. If there are few, states are removed before the limit is reached.
    held : callable
        Returns the size of the states that interrupted requests keep, in bytes. They count towards the limit, and stay
        until the requests continue.
    """

    def __init__(
        self,
        limit: int | None,
        disk: DiskCache | None = None,
        free_memory: Callable[[], int] | None = None,
        held: Callable[[], int] = lambda: 0,
    ) -> None:
        self.limit, self._disk, self._free_memory, self._held = limit, disk, free_memory, held
        self.n_bytes, self._checked = 0, -inf
        self._entries: OrderedDict[int, Entry] = OrderedDict()  # by id

    def accepts(self, n_bytes: int) -> bool:
        """Return whether a state of this size fits at all, here or on the disk."""
        fits = self.limit is None or n_bytes <= self.limit
        return fits or (self._disk is not None and self._disk.accepts(n_bytes))

    def best(self, prompt: Ints, adapters: Strengths = ()) -> tuple[Entry | None, int]:
        """Return the entry that saves the most tokens of ``prompt``, and their number.

        The entry counts as used.
        """
        best, longest = None, 0
        for entry in self._entries.values():
            n = entry.n_reused(prompt, adapters)
            if n > longest:
                best, longest = entry, n
        if best is not None:
            self._entries.move_to_end(id(best))
        return best, longest

    def holds(self, tokens: Ints, adapters: Strengths = ()) -> bool:
        """Return whether an entry, here or on the disk, begins with all of ``tokens`` and can be cut there."""
        if any(entry.n_reused(tokens, adapters) == len(tokens) for entry in self._entries.values()):
            return True
        return self._disk is not None and self._disk.holds(tokens, adapters)

    def add(self, tokens: Ints, state: Bytes, cuts: Collection[int] | None = None, adapters: Strengths = ()) -> None:
        """Add a state, which can be cut at ``cuts``.

        Entries that can be made from it are removed, then the least recently used ones, itself at last, until all fit.
        Those go to the disk.
        """
        added = Entry(tokens, state, cuts, adapters)
        for entry in list(self._entries.values()):
            if added.n_reused(entry.tokens, entry.adapters) == len(entry.tokens):
                self._remove(entry)
        self._entries[id(added)] = added
        self.n_bytes += state.nbytes
        self._shrink(self._limit_now())

    def make_room(self, n_bytes: int) -> bool:
        """Remove entries, least recently used first, so that a request can keep a state besides them.

        Returns False if the limit or the memory does not have space for it.
        """
        limit = self._limit_now()
        if limit is not None and n_bytes > limit:
            return False
        self._shrink(None if limit is None else limit - n_bytes)
        return True

    def relieve(self) -> None:
        """Remove entries if the memory of the machine is nearly full; called often, it looks once per second."""
        now = monotonic()
        if self._entries and now - self._checked >= _CHECK_SECONDS:
            self._checked = now
            self._shrink(self._limit_now())

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
        self.n_bytes = 0

    def _shrink(self, limit: int | None) -> None:
        """Move the least recently used entries to the disk until all fit into ``limit`` bytes."""
        while self._entries and limit is not None and self.n_bytes > limit:
            oldest = next(iter(self._entries.values()))
            self._remove(oldest)
            if self._disk is not None:
                self._disk.add(oldest)

    def _limit_now(self) -> int | None:
        """Return how many bytes the entries may have: the limit, or less if the machine's memory is nearly full."""
        limits = [] if self.limit is None else [self.limit - self._held()]
        if self._free_memory is not None:
            limits.append(self.n_bytes + self._free_memory() - _MIN_FREE_BYTES)
        return max(min(limits), 0) if limits else None

    def discard(self, entry: Entry, reason: object) -> None:
        """Remove an entry that the backend cannot restore."""
        if id(entry) in self._entries:
            self._remove(entry)
        elif self._disk is not None:
            self._disk.discard(entry, reason)

    def store(self, entry: Entry, may_continue: Callable[[], bool]) -> bool:
        """Write an entry to the disk now; return False if it is there already, or cannot be written."""
        return self._disk is not None and self._disk.write(entry, may_continue)

    def __iter__(self) -> Iterator[Entry]:
        """Yield the entries, most recently used first."""
        yield from reversed(self._entries.values())

    def _remove(self, entry: Entry) -> None:
        del self._entries[id(entry)]
        self.n_bytes -= entry.state.nbytes
