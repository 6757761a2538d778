"""Protocols for backends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from llamafw.graph import Graph
from llamafw.interfaces.model import Quant
from llamafw.types import BackendOptions, Batch, Bytes, Floats, Model


class Backend(Protocol):
    """Runs a model.

    Created once per model; called on the engine thread, one call at a time.

    The logits of a token depend only on the tokens of its own slot up to that token. Other slots, the division of
    the prompt into batches, and the number of threads do not change a single bit of them.
    """

    n_slots: int  # sequences held at the same time
    n_ctx: int  # positions per slot
    n_vocab: int  # logits per token
    n_batch: int  # maximum number of tokens in a batch
    n_embd: int  # size of a hidden state
    state_format: str  # identifies the layout of saved states, with a version: "numba-1"

    def forward(self, batch: Batch) -> Floats:
        """Return the logits of the m ``batch.outputs``, ``(m, n_vocab)`` float32.

        The caller may write into the result; it is valid until the next call. Calling `forward` again with the same
        batch is allowed and gives the same result.
        """

    def hidden(self, batch: Batch) -> Floats:
        """Return the hidden states of ``batch.outputs`` after the output norm, ``(m, n_embd)`` float32.

        The rules of `forward` apply.
        """

    def truncate(self, slot: int, n: int) -> None:
        """Remove all positions of ``slot`` from ``n`` on."""

    def shift(self, slot: int, first: int, n: int) -> None:
        """Remove positions ``first`` … ``first + n - 1`` of ``slot``; later ones move down, with their keys rotated."""

    def save(self, slot: int, n: int) -> Bytes:
        """Return a copy of the state of the first ``n`` positions of ``slot``, ``(n_bytes,)`` uint8."""

    def state_size(self, n: int) -> int:
        """Return the size in bytes of the state of ``n`` positions."""

    def restore(self, slot: int, n: int, state: Bytes) -> None:
        """Replace the contents of ``slot`` by ``n`` positions with a ``state`` that `save` returned for any slot.

        Raises
        ------
        LlamafwError
            The state does not fit; the slot is unchanged.
        """

    def describe(self) -> Mapping[str, Any]:
        """Return facts for logs and ``llamafw bench``: ``n_threads``, ``weight_bytes`` read per token …"""

    def close(self) -> None:
        """Stop threads and free memory.

        No other method is called afterwards.
        """


@dataclass(frozen=True, slots=True)
class BackendContext:
    """The arguments of a `BackendFactory`."""

    model: Model  # the open model file
    graph: Graph  # what it computes
    options: BackendOptions  # settings from flags
    quants: Mapping[str, Quant]  # tensor types of all plugins, by name
    log: Callable[[str], None] = field(default=lambda line: None)  # prints a line of progress


BackendFactory = Callable[[BackendContext], Backend]
"""The object that `register_backends` registers. Called once per model, on the thread that loads it."""
