"""What each slot's cache holds, and which slot a request gets. It knows nothing of text, samplers or threads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llamafw.types import Ints

SIMILAR = 0.1  # of what a slot holds: a prefix shorter than that is not worth losing the rest (llama-server's -sps)


class Slot:
    """One sequence's place in the KV cache: the tokens it holds, in order of position."""

    __slots__ = ("busy", "id", "id_task", "last_used", "n", "n_fresh", "served", "tokens")

    def __init__(self, id: int, n_ctx: int) -> None:
        self.id = id
        self.tokens: Ints = np.empty(n_ctx, np.int32)  # [:n] are in the cache
        self.n = 0
        self.n_fresh = n_ctx  # how many may serve others: behind a shift the cache is not what evaluating would give
        self.busy = False
        self.served: object = None  # the sequence it serves, or served last
        self.id_task = -1
        self.last_used = 0  # a count of choices, not a time

    def extend(self, tokens: Ints) -> None:
        """Note that ``tokens`` were evaluated and are now in the cache."""
        end = self.n + len(tokens)
        self.tokens[self.n : end] = tokens
        self.n = end

    def shorten(self, n: int) -> None:
        """Note that the cache holds ``n`` tokens, no more."""
        self.n = n
        if n <= self.n_fresh:
            self.n_fresh = len(self.tokens)

    def shift(self, first: int, n: int) -> None:
        """Note that ``n`` tokens from ``first`` on were taken out."""
        self.tokens[first : self.n - n] = self.tokens[first + n : self.n].copy()
        self.n -= n
        self.n_fresh = min(self.n_fresh, first)

    @property
    def reusable(self) -> Ints:
        """The tokens whose cache may serve others."""
        return self.tokens[: min(self.n, self.n_fresh)]

    def common_prefix(self, prompt: Ints) -> int:
        """Return how many leading tokens of ``prompt`` the cache holds, as evaluating them would give it."""
        return common_prefix(self.reusable, prompt)


def common_prefix(a: Ints, b: Ints) -> int:
    """Return how many leading tokens two prompts share."""
    n = min(len(a), len(b))
    differ = a[:n] != b[:n]
    return int(differ.argmax()) if differ.any() else n


class Slots:
    """All slots of a backend.

    Parameters
    ----------
    similar : float
        How much of what a slot holds a prompt must share to get it for that; 0: nothing counts but the last use.
    """

    def __init__(self, n_slots: int, n_ctx: int, similar: float = SIMILAR) -> None:
        self._similar = similar
        self.all = [Slot(id, n_ctx) for id in range(n_slots)]
        self._uses = 0

    def any_free(self) -> bool:
        """Return whether a slot is free."""
        return not all(slot.busy for slot in self.all)

    def take(self, prompt: Ints, id_slot: int, *, cache_prompt: bool) -> tuple[Slot, int] | None:
        """Give a request a slot, and say how many tokens of its prompt the cache holds.

        The one asked for; else the free one with the longest common prefix, if that is a fair part of what it holds;
        else, and of equals, the least recently used. So a new conversation, which shares no more than the start of its
        template with a long one, does not push that one's cache out while another slot is empty.

        Returns
        -------
        tuple of Slot and int, or None
            None: the slot asked for, or every slot, is busy.
        """
        allowed: Sequence[Slot] = self.all if id_slot < 0 else self.all[id_slot : id_slot + 1]
        free = sorted((slot for slot in allowed if not slot.busy), key=lambda slot: slot.last_used)
        if not free:
            return None
        common = {slot: slot.common_prefix(prompt) if cache_prompt else 0 for slot in free}
        worth = {slot: n if self._similar and n > self._similar * slot.n else 0 for slot, n in common.items()}
        best = max(free, key=worth.__getitem__)
        self._uses += 1
        best.busy, best.last_used, best.id_task = True, self._uses, self._uses - 1
        return best, common[best]
