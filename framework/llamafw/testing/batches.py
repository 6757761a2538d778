"""Batches from runs of tokens, and the logits of a prompt cut into pieces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from llamafw.interfaces import Backend
from llamafw.types import Batch, Floats

Run = tuple[int, int, Sequence[int]]
"""Slot, first position, tokens."""


def batch(*runs: Run, outputs: Iterable[int] | None = None) -> Batch:
    """Return a batch of runs; all tokens are outputs unless told."""
    tokens = [token for _, _, run in runs for token in run]
    positions = [first + i for _, first, run in runs for i in range(len(run))]
    slots = [slot for slot, _, run in runs for _ in run]
    wanted = range(len(tokens)) if outputs is None else outputs
    return Batch(*(np.array(list(values), np.int32) for values in (tokens, positions, slots, wanted)))


def logits(backend: Backend, tokens: Sequence[int], sizes: Iterable[int] | None = None, slot: int = 0) -> Floats:
    """Return the logits after each token, ``(n, n_vocab)``, of a prompt cut into pieces of ``sizes``."""
    backend.truncate(slot, 0)
    rows, first = [], 0
    for size in sizes or [len(tokens)]:
        rows.append(backend.forward(batch((slot, first, tokens[first : first + size]))).copy())
        first += size
    return np.concatenate(rows)
