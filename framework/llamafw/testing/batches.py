"""Helpers that call backends in tests: build a batch, evaluate a prompt in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from llamafw.interfaces import Backend
from llamafw.types import Batch, Floats

Run = tuple[int, int, Sequence[int]]
"""Consecutive tokens of one slot: the slot, the position of the first token, the tokens."""


def batch(*runs: Run, outputs: Iterable[int] | None = None, types: Iterable[int] | None = None) -> Batch:
    """Return a batch of ``runs``.

    ``outputs`` are indices of tokens in the batch; None: all of them. ``types`` are those of all tokens; None: all are
    0.
    """
    tokens = [token for _, _, run in runs for token in run]
    positions = [first + i for _, first, run in runs for i in range(len(run))]
    slots = [slot for slot, _, run in runs for _ in run]
    outputs = range(len(tokens)) if outputs is None else outputs
    arrays = [np.array(list(values), np.int32) for values in (tokens, positions, slots, outputs)]
    of_types = None if types is None else np.array(list(types), np.int32)
    return Batch(arrays[0], arrays[1], arrays[2], arrays[3], of_types)


def logits(backend: Backend, tokens: Sequence[int], sizes: Iterable[int] | None = None, slot: int = 0) -> Floats:
    """Evaluate a prompt in an emptied slot; return the logits after each token, ``(n, n_vocab)`` float32.

    Parameters
    ----------
    backend : Backend
        The backend.
    tokens : sequence of int
        The prompt.
    sizes : iterable of int, optional
        Numbers of tokens per batch; by default one batch takes the whole prompt.
    slot : int
        The slot.
    """
    backend.truncate(slot, 0)
    rows, first = [], 0
    for size in sizes or [len(tokens)]:
        rows.append(backend.forward(batch((slot, first, tokens[first : first + size]))).copy())
        first += size
    return np.concatenate(rows)
