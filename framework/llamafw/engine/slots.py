"""Tracks what each slot's cache holds, and chooses the slot for a request."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from llamafw.types import Ints, Strengths

if TYPE_CHECKING:
    from llamafw.engine.task import Task

NO_TOKENS = np.empty(0, np.int32)

MIN_TOKENS_TO_COPY = 64
"""Evaluating fewer tokens is about as fast as copying their state from another slot."""

MIN_TOKENS_TO_SHARE = 16
"""The same, if the backend shares them: it only copies the end of a page."""

DEFAULT_SIMILARITY = 0.1
"""Minimum fraction of a slot's cache that a prompt must share to prefer that slot (llama-server's ``-sps``)."""


class Slot:
    """A place for one sequence in the KV cache, and the tokens that are cached there, in order of position."""

    __slots__ = (
        "adapters",
        "busy",
        "cuts",
        "id",
        "id_task",
        "last_used",
        "lost",
        "marks",
        "n",
        "n_exact",
        "n_stable",
        "task",
        "tokens",
    )

    def __init__(self, id: int, n_ctx: int) -> None:
        self.id = id
        self.tokens: Ints = np.empty(n_ctx, np.int32)  # [:n] are cached
        self.n = 0
        self.adapters: Strengths = ()  # that the cached tokens were evaluated with
        self.n_exact = n_ctx  # positions before the first shift: after it, the cache differs from a fresh evaluation
        self.n_stable = 0  # positions before the last answer, which the next turn of a chat is likely to repeat
        self.cuts: Collection[int] | None = None  # positions at which it can be cut, besides its end; None: anywhere
        self.marks: list[int] = []  # positions at which a snapshot will be taken, ascending
        self.lost: Ints = NO_TOKENS  # tokens that must be evaluated again, before any others
        self.busy = False
        self.task: Task | None = None  # the current task, or the last one
        self.id_task = -1
        self.last_used = 0  # a counter, not a time

    def release(self) -> None:
        """Record that its task has ended; the cache stays."""
        self.busy = False
        self.marks, self.lost = [], NO_TOKENS

    def extend(self, tokens: Ints) -> None:
        """Record that ``tokens`` were evaluated and are now cached."""
        end = self.n + len(tokens)
        self.tokens[self.n : end] = tokens
        self.n = end
        self.lost = self.lost[len(tokens) :]

    def shorten(self, n: int) -> None:
        """Record that only the first ``n`` tokens are still cached."""
        self.n = n
        if n <= self.n_exact:
            self.n_exact = len(self.tokens)

    def shift(self, first: int, n: int) -> None:
        """Record that ``n`` tokens from ``first`` on were removed."""
        self.tokens[first : self.n - n] = self.tokens[first + n : self.n].copy()
        self.n -= n
        self.n_exact = min(self.n_exact, first)

    @property
    def n_to_mark(self) -> int:
        """How many tokens may be evaluated before the next snapshot."""
        return next((mark - self.n for mark in self.marks if mark > self.n), len(self.tokens))

    @property
    def reusable(self) -> Ints:
        """The cached tokens that other requests may reuse."""
        return self.tokens[: min(self.n, self.n_exact)]

    @property
    def n_savable(self) -> int:
        """How many of the reusable tokens a saved state can hold."""
        return last_cut(self.cuts, self.n, len(self.reusable))

    def common_prefix(self, prompt: Ints, adapters: Strengths = ()) -> int:
        """Return how many leading tokens of ``prompt`` are cached and reusable; 0 if it has other adapters."""
        return common_prefix(self.reusable, prompt) if self.adapters == adapters else 0

    def n_reused(self, prompt: Ints, adapters: Strengths = ()) -> int:
        """Return how many leading tokens of ``prompt`` are left if the slot is cut for it."""
        return last_cut(self.cuts, self.n, self.common_prefix(prompt, adapters))


def common_prefix(a: Ints, b: Ints) -> int:
    """Return the length of the common prefix of two prompts."""
    n = min(len(a), len(b))
    differs = a[:n] != b[:n]
    return int(differs.argmax()) if differs.any() else n


def find_chunks(cached: Ints, prompt: Ints, min_tokens: int) -> Iterator[tuple[int, int]]:
    """Yield parts of ``cached`` that together are the start of ``prompt``, in their order.

    Yields
    ------
    n_skipped : int
        How many cached tokens are between the previous part and this one.
    n : int
        Its length, at least ``min_tokens``.
    """
    data, pattern = cached.tobytes(), prompt[:min_tokens].tobytes()
    end = at = 0
    while len(prompt) >= min_tokens and (at := data.find(pattern, at)) >= 0:
        first, offset = divmod(at, cached.itemsize)
        if offset:  # between two tokens
            at += 1
            continue
        n = common_prefix(cached[first:], prompt)
        yield first - end, n
        end, prompt = first + n, prompt[n:]
        at, pattern = end * cached.itemsize, prompt[:min_tokens].tobytes()


def last_cut(cuts: Collection[int] | None, n_cached: int, n: int) -> int:
    """Return the last position up to ``n`` at which a cache of ``n_cached`` tokens can be cut; see `Slot.cuts`."""
    if cuts is None or n == n_cached:
        return n
    return max((cut for cut in cuts if cut <= n), default=0)


class Slots:
    """All slots of a backend.

    Parameters
    ----------
    n_slots, n_ctx : int
        Number of slots, and positions per slot.
    similarity : float
        Minimum fraction of a slot's cache that a prompt must share to prefer that slot; 0: only the last use counts.
    """

    def __init__(self, n_slots: int, n_ctx: int, similarity: float = DEFAULT_SIMILARITY) -> None:
        self._similarity = similarity
        self.all = [Slot(id, n_ctx) for id in range(n_slots)]
        self._n_uses = 0

    def n_free(self) -> int:
        """Return how many slots are free."""
        return sum(not slot.busy for slot in self.all)

    def take(
        self, prompt: Ints, id_slot: int, *, cache_prompt: bool, adapters: Strengths = (), n_cache_reuse: int = 0
    ) -> Slot | None:
        """Assign a slot to a request; return None if the slot, or every slot, is busy.

        A request that names a slot gets that one. Another request gets the free slot that can reuse most tokens, if
        these are enough compared to the slot's cache. If no slot has them, or several are equal, the least recently
        used slot is taken. Therefore a new conversation that shares only the start of the template with a long
        conversation does not replace the long one's cache while another slot is empty.
        """
        allowed: Sequence[Slot] = self.all if id_slot < 0 else self.all[id_slot : id_slot + 1]
        free = sorted((slot for slot in allowed if not slot.busy), key=attrgetter("last_used"))
        if not free:
            return None

        def value(slot: Slot) -> int:
            n = slot.n_reused(prompt, adapters)
            if n_cache_reuse and slot.adapters == adapters:
                n += sum(length for _, length in find_chunks(slot.tokens[n : slot.n], prompt[n:], n_cache_reuse))
            return n if self._similarity and n > self._similarity * slot.n else 0

        best = max(free, key=value) if cache_prompt else free[0]
        self._n_uses += 1
        best.busy, best.last_used, best.id_task = True, self._n_uses, self._n_uses - 1
        return best
