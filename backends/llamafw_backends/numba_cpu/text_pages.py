"""The memory for keys and values of texts that are computed as a whole: those of encoders.

Nothing of a text is kept after its batch, so all texts of a batch, and all layers, use the same few pages one after the
other. Each text begins with a page of its own, because keys are stored in blocks. Counterpart of `pages`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llamafw import LlamafwError
from llamafw_backends.numba_cpu.pages import PAGE, Numbers, whole_pages


class TextPages:
    """The pages of the texts in a batch.

    Parameters
    ----------
    n_slots, n_ctx : int
        Number of slots, and of positions that a text can have, a multiple of `PAGE`.
    n_batch : int
        Maximum number of tokens in a batch.
    """

    n_used = n_shared = 0  # between batches

    def __init__(self, n_slots: int, n_ctx: int, n_batch: int) -> None:
        self.table: Numbers = np.zeros((n_slots, n_ctx // PAGE), np.int32)  # kernels read it
        self.writable: npt.NDArray[np.int64] = np.zeros((n_slots, 2), np.int64)  # as in `pages`
        self.n_total = (whole_pages(n_batch) // PAGE) + min(n_slots, n_batch)  # the last page of each may be incomplete
        self.n_touched = 0  # pages that were ever used
        self._n_taken = 0  # by the texts of this batch

    def clear(self) -> None:
        """Take the pages of all texts away: a batch begins."""
        self.writable[...] = 0
        self._n_taken = 0

    def reserve(self, slot: int, first: int, end: int, n_kept: int) -> list[tuple[int, int]]:
        """Give the text in a slot, which has ``end`` positions, pages that follow one another; see `Pages.reserve`."""
        n = whole_pages(end) // PAGE
        self.table[slot, :n] = np.arange(self._n_taken, self._n_taken + n)
        self.writable[slot] = 0, n * PAGE
        self._n_taken += n
        self.n_touched = max(self.n_touched, self._n_taken)
        return []

    def truncate(self, slot: int, n: int) -> None:
        """Do nothing: between batches no slot has pages."""

    def share(self, source: int, target: int, n: int) -> None:
        """Raise LlamafwError."""
        raise LlamafwError("slots of an encoder have nothing to share")
