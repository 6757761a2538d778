"""Protocols for backends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from llamafw.interfaces.model import Quant
from llamafw.types import BackendOptions, Batch, Bytes, Decoder, Floats, Model


class Backend(Protocol):
    """Runs a model. Made once per model; called on the engine thread, one call at a time.

    The logits of a token depend on the tokens of its own slot up to it, and on nothing else, to the last bit:
    not on other slots, on how the prompt was cut into batches, or on the number of threads.
    """

    n_slots: int  # sequences it holds at a time
    n_ctx: int  # positions per slot
    n_vocab: int  # logits per row
    n_batch: int  # most tokens in one batch
    n_embd: int  # of hidden states

    def forward(self, batch: Batch) -> Floats:
        """Return ``(len(batch.outputs), n_vocab)`` float32 logits, the caller's to write into until the next call.

        Calling it twice with the same batch is allowed and gives the same result.
        """

    def hidden(self, batch: Batch) -> Floats:
        """Return the hidden states after the output norm, ``(len(batch.outputs), n_embd)`` float32, instead of logits.

        What is said of `forward` holds here too.
        """

    def truncate(self, slot: int, n: int) -> None:
        """Forget what ``slot`` holds from position ``n`` on."""

    def shift(self, slot: int, first: int, n: int) -> None:
        """Forget positions ``first`` … ``first + n - 1`` of ``slot``; what follows moves down, keys turned for it."""

    def save(self, slot: int, n: int) -> Bytes:
        """Return the state of the first ``n`` positions of ``slot``, a copy, ``(n_bytes,)``."""

    def restore(self, slot: int, n: int, state: Bytes) -> None:
        """Let any ``slot`` hold the ``n`` positions whose ``state`` `save` returned, and nothing else, to the last bit.

        Raises
        ------
        LlamafwError
            The state does not fit; nothing has changed.
        """

    def describe(self) -> Mapping[str, Any]:
        """Return facts for logs and ``llamafw bench``: ``n_threads``, ``weight_bytes`` read per token …"""

    def close(self) -> None:
        """Stop threads, free memory. Nothing else is called afterwards."""


@dataclass(frozen=True, slots=True)
class BackendContext:
    """What a backend is made from."""

    model: Model  # tensors by their names in the file
    decoder: Decoder  # what is to be computed
    options: BackendOptions  # as flags set them
    quants: Mapping[str, Quant]  # by name, of every plugin
    log: Callable[[str], None] = field(default=lambda line: None)  # progress for people


BackendFactory = Callable[[BackendContext], Backend]
"""What is registered as a backend. Called once per model, on the thread that loads it."""
