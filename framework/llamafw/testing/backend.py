"""A fake backend that needs no weights: its logits are random numbers, seeded with the last tokens of the slot.

It starts at once and always gives the same logits, so tests of everything but the model can rely on exact answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from llamafw.errors import LlamafwError
from llamafw.hookspecs import hookimpl
from llamafw.interfaces import Backend, BackendContext, Register
from llamafw.types import Batch, Bytes, Floats

N_SEED_TOKENS = 4  # how many of a slot's last tokens seed the logits


class DeterministicBackend:
    """A `llamafw.Backend` whose slots hold token ids.

    A saved state is the token ids as bytes.
    """

    exact, whole_texts, can_cut, can_shift = True, False, True, True

    def __init__(self, context: BackendContext) -> None:
        options = context.options
        self.n_slots, self.n_batch = options.n_slots, options.n_batch
        self.n_vocab, self.n_embd = context.graph.n_vocab, context.graph.n_embd
        self.n_ctx = options.n_ctx or context.graph.n_ctx_train
        self.state_format = "deterministic-1"
        self._slots: list[list[int]] = [[] for _ in range(self.n_slots)]

    def forward(self, batch: Batch) -> Floats:
        """Return the logits of the m outputs, ``(m, n_vocab)`` float32: noise seeded with each slot's last tokens."""
        return self._rows(batch, self.n_vocab)

    def hidden(self, batch: Batch) -> Floats:
        """Return noise of the shape of hidden states, ``(m, n_embd)`` float32."""
        return self._rows(batch, self.n_embd)

    def _rows(self, batch: Batch, width: int) -> Floats:
        rows, outputs = [], set(batch.outputs.tolist())
        tokens = zip(batch.tokens.tolist(), batch.positions.tolist(), batch.slots.tolist(), strict=True)
        for i, (token, position, slot) in enumerate(tokens):
            held = self._slots[slot]
            if position > len(held):
                raise LlamafwError(f"position {position} does not continue slot {slot}, which holds {len(held)} tokens")
            held[position:] = [token]
            if i in outputs:
                rows.append(np.random.default_rng(held[-N_SEED_TOKENS:]).standard_normal(width).astype(np.float32))

        return np.array(rows, np.float32).reshape(len(rows), width)

    def truncate(self, slot: int, n: int) -> int:
        """Remove the tokens of ``slot`` from position ``n`` on; return how many are left."""
        del self._slots[slot][n:]
        return len(self._slots[slot])

    def shift(self, slot: int, first: int, n: int) -> None:
        """Remove ``n`` tokens of ``slot`` from position ``first`` on; later ones move down."""
        del self._slots[slot][first : first + n]

    def state_size(self, n: int) -> int:
        """Return the size in bytes of the state of ``n`` positions."""
        return 4 * n

    def save(self, slot: int, n: int) -> Bytes:
        """Return the first ``n`` tokens of ``slot`` as bytes."""
        return np.array(self._slots[slot][:n], np.int32).view(np.uint8)

    def restore(self, slot: int, n: int, state: Bytes) -> None:
        """Replace the tokens of ``slot`` by those of a saved state."""
        if state.nbytes != 4 * n or n > self.n_ctx:
            raise LlamafwError(f"a state of {state.nbytes} bytes does not hold {n} tokens")
        self._slots[slot] = state.view(np.int32).tolist()

    def describe(self) -> Mapping[str, Any]:
        """Return facts for logs."""
        return {"backend": "deterministic", "n_threads": 1, "weight_bytes": 0}

    def close(self) -> None:
        """Do nothing: there are no threads and no memory to free."""


make: Callable[[BackendContext], Backend] = DeterministicBackend


@hookimpl
def register_backends(register: Register) -> None:
    """Register it as ``--backend deterministic``.

    Only servers for tests load this plugin.
    """
    register("deterministic", make)
