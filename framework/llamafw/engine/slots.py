"""What each slot's cache holds, and which slot a request gets. It knows nothing of text, samplers or threads."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llamafw.types import Ints


class Slot:
    """One sequence's place in the KV cache: the tokens it holds, in order of position."""

    __slots__ = ("busy", "id", "last_used", "n", "tokens")

    def __init__(self, id: int, n_ctx: int) -> None:
        self.id = id
        self.tokens: Ints = np.empty(n_ctx, np.int32)  # [:n] are in the cache
        self.n = 0
        self.busy = False
        self.last_used = 0  # a count of choices, not a time

    def extend(self, tokens: Ints) -> None:
        """Note that ``tokens`` were evaluated and are now in the cache."""
        end = self.n + len(tokens)
        self.tokens[self.n : end] = tokens
        self.n = end

    def common_prefix(self, prompt: Ints) -> int:
        """Return how many leading tokens of ``prompt`` the cache holds."""
        n = min(self.n, len(prompt))
        differ = self.tokens[:n] != prompt[:n]
        return int(differ.argmax()) if differ.any() else n


class Slots:
    """All slots of a backend."""

    def __init__(self, n_slots: int, n_ctx: int) -> None:
        self.all = [Slot(id, n_ctx) for id in range(n_slots)]
        self._uses = 0

    def any_free(self) -> bool:
        """Return whether a slot is free."""
        return not all(slot.busy for slot in self.all)

    def take(self, prompt: Ints, id_slot: int, *, cache_prompt: bool) -> tuple[Slot, int] | None:
        """Give a request a slot, and say how many tokens of its prompt the cache holds.

        The one asked for; else the free one with the longest common prefix, of equals the least recently used.

        Returns
        -------
        tuple of Slot and int, or None
            None: the slot asked for, or every slot, is busy.
        """
        allowed: Sequence[Slot] = self.all if id_slot < 0 else self.all[id_slot : id_slot + 1]
        best: Slot | None = None
        common = -1
        for slot in sorted((slot for slot in allowed if not slot.busy), key=lambda slot: slot.last_used):
            n = slot.common_prefix(prompt) if cache_prompt else 0
            if n > common:
                best, common = slot, n
        if best is None:
            return None
        self._uses += 1
        best.busy, best.last_used = True, self._uses
        return best, common
