"""A backend that computes nothing: scores are a function of the last tokens. Fast to start, and always the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from llamafw.errors import LlamafwError
from llamafw.hookspecs import hookimpl
from llamafw.interfaces import Backend, BackendContext, Register
from llamafw.types import Batch, Bytes, Floats

N_LAST = 4  # tokens that scores depend on


class DeterministicBackend:
    """A `llamafw.Backend`. What a slot holds are its tokens; its state is the same as bytes."""

    def __init__(self, context: BackendContext) -> None:
        options = context.options
        self.n_slots, self.n_batch = options.n_slots, options.n_batch
        self.n_vocab, self.n_embd = context.decoder.n_vocab, context.decoder.n_embd
        self.n_ctx = options.n_ctx or context.decoder.n_ctx_train
        self._slots: list[list[int]] = [[] for _ in range(self.n_slots)]

    def forward(self, batch: Batch) -> Floats:
        """Return a row of noise for each output, which its last tokens have seeded."""
        return self._rows(batch, self.n_vocab)

    def hidden(self, batch: Batch) -> Floats:
        """Return the same, as wide as hidden states."""
        return self._rows(batch, self.n_embd)

    def _rows(self, batch: Batch, width: int) -> Floats:
        rows, wanted = [], set(batch.outputs.tolist())
        tokens = zip(batch.tokens.tolist(), batch.positions.tolist(), batch.slots.tolist(), strict=True)
        for i, (token, position, slot) in enumerate(tokens):
            held = self._slots[slot]
            if position > len(held):
                raise LlamafwError(f"position {position} does not continue slot {slot}")
            held[position:] = [token]
            if i in wanted:
                rows.append(np.random.default_rng(held[-N_LAST:]).standard_normal(width).astype(np.float32))
        return np.array(rows, np.float32).reshape(len(rows), width)

    def truncate(self, slot: int, n: int) -> None:
        """Forget tokens."""
        del self._slots[slot][n:]

    def shift(self, slot: int, first: int, n: int) -> None:
        """Take tokens out."""
        del self._slots[slot][first : first + n]

    def save(self, slot: int, n: int) -> Bytes:
        """Return the tokens."""
        return np.array(self._slots[slot][:n], np.int32).view(np.uint8)

    def restore(self, slot: int, n: int, state: Bytes) -> None:
        """Take them back."""
        if state.nbytes != 4 * n or n > self.n_ctx:
            raise LlamafwError(f"a state of {state.nbytes} bytes is not that of {n} tokens")
        self._slots[slot] = state.view(np.int32).tolist()

    def describe(self) -> Mapping[str, Any]:
        """Return next to nothing."""
        return {"backend": "deterministic", "n_threads": 1, "weight_bytes": 0}

    def close(self) -> None:
        """There is nothing to stop."""


make: Callable[[BackendContext], Backend] = DeterministicBackend


@hookimpl
def register_backends(register: Register) -> None:
    """Offer it, in servers of the fixtures, as ``--backend deterministic``."""
    register("deterministic", make)
