"""A toy backend whose slots share prefixes."""

from __future__ import annotations

from typing import Any

from llamafw import CachePages
from support.toy_model import ToyBackend

PAGE = 16


class SharingToyBackend(ToyBackend):
    """A `ToyBackend` that counts what its slots would share with pages of 16 tokens.

    Attributes
    ----------
    shares : list of (int, int, int)
        The arguments of all calls of `share_prefix`.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.shares: list[tuple[int, int, int]] = []

    def share_prefix(self, source: int, target: int, n: int) -> None:
        assert source != target
        assert 0 < n <= len(self.slots[source])
        self.shares.append((source, target, n))
        self.slots[target] = self.slots[source][:n]

    def page_counts(self) -> CachePages:
        pages = [tuple(tokens[: i + PAGE]) for tokens in self.slots for i in range(0, len(tokens), PAGE)]
        n_used, n_total = len(set(pages)), self.n_slots * self.n_ctx // PAGE
        return CachePages(PAGE, n_used, sum(pages.count(page) > 1 for page in set(pages)), n_used, n_total)
