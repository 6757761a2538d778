"""A drafter whose model can leave the memory and come back: ``--sleep-idle-seconds``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from llamafw.interfaces import Drafter, DraftRequest, EvaluatedTokens, HiddenDrafter
from llamafw.types import Ints


class UnloadableDrafter:
    """Passes all calls to another drafter, which is created again after it was unloaded.

    It has the method `observe` if the other one has it. While it is unloaded, only `n_max` is known.

    Parameters
    ----------
    create : callable
        Returns the other drafter with its model loaded. Called by `load` after `unload`.
    drafter : Drafter
        What ``create`` returned first.
    release : callable
        Called after the other drafter was closed, to free what else its model has in memory.
    """

    def __init__(
        self, create: Callable[[], Drafter], drafter: Drafter, release: Callable[[], None] = lambda: None
    ) -> None:
        self._create, self._release = create, release
        self._drafter: Drafter | None = drafter
        self.n_max = drafter.n_max
        if hasattr(drafter, "observe"):
            self.observe = self._observe

    @property
    def is_loaded(self) -> bool:
        """Whether the other drafter is in memory."""
        return self._drafter is not None

    def unload(self) -> None:
        """Close the other drafter; its memory is free after the next garbage collection."""
        drafter, self._drafter = self._drafter, None
        if drafter is not None:
            drafter.close()
            self._release()

    def load(self) -> None:
        """Create the other drafter if it does not exist; it knows no texts yet."""
        if self._drafter is None:
            self._drafter = self._create()

    # --- the protocol `llamafw.Drafter`

    def draft(self, requests: Sequence[DraftRequest]) -> Sequence[Ints]:
        """Return what the other drafter guesses."""
        assert self._drafter is not None  # nothing is drafted during sleep
        return self._drafter.draft(requests)

    def finish(self, slot: int, drawn: Ints) -> None:
        """Tell the other drafter that a response has ended."""
        if self._drafter is not None:
            self._drafter.finish(slot, drawn)

    def _observe(self, states: Sequence[EvaluatedTokens]) -> None:
        """Show hidden states to the other drafter."""
        cast("HiddenDrafter", self._drafter).observe(states)

    def close(self) -> None:
        """Close the other drafter if it is loaded."""
        drafter, self._drafter = self._drafter, None
        if drafter is not None:
            drafter.close()
