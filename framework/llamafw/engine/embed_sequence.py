"""An embedding request in a slot: collects hidden states and pools them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from time import perf_counter
from typing import Any, Literal

import numpy as np

from llamafw.engine.dense_layers import DenseLayer, apply_layers
from llamafw.engine.pausing import Pause
from llamafw.engine.rank_head import RankHead
from llamafw.engine.slots import NO_TOKENS, Slot
from llamafw.errors import DeadlineExceeded, RequestError
from llamafw.sampling.sampler_kernels import CandidateBuffers
from llamafw.types import Embedding, EmbedRequest, Floats, Ints, Pooling, Strengths, Timings


class EmbedSequence:
    """An embedding request from its arrival to its result.

    Implements `Task`.

    Parameters
    ----------
    request : EmbedRequest
        The request.
    prompt : (n_prompt,) int32
        Its tokens.
    send : callable
        Receives the result or the error, once.
    rank_head : RankHead, optional
        Computes the score for pooling "rank".
    layers : sequence of DenseLayer
        Applied to the vectors of all other poolings.
    adapters : Strengths
        The adapters that the tokens are evaluated with.

    Raises
    ------
    RequestError
        The tokens and their types have different numbers.
    """

    output: Literal["logits", "hidden"] = "hidden"
    failure_message = "the model computed invalid hidden states"
    n_keep = 0
    n_answer_start = chain = None
    n_draftable = n_predicted = n_cache_reuse = 0
    paused: Pause | None = None

    def __init__(
        self,
        request: EmbedRequest,
        prompt: Ints,
        send: Callable[[Embedding | RequestError], None],
        rank_head: RankHead | None = None,
        layers: Sequence[DenseLayer] = (),
        adapters: Strengths = (),
    ) -> None:
        if request.types and len(request.types) != len(prompt):
            raise RequestError(f"there are {len(request.types)} types for {len(prompt)} tokens")
        self.types = np.array(request.types, np.int32) if request.types else None
        self.level = request.sender.priority
        self.request, self.prompt, self._rank_head, self._layers = request, prompt, rank_head, layers
        self.adapters = adapters
        self._pooling: Pooling = request.pooling
        if request.pooling == "rank" and rank_head is not None:
            states: dict[str, Pooling] = {"first": "cls", "last": "last", "mean": "mean"}
            self._pooling = states[rank_head.state]
        self.slot: Slot | None = None
        self.last = -1
        self.draft = NO_TOKENS
        self.done = self.cancelled = False
        self.arrived = perf_counter()
        self.deadline = inf
        self.n_done = 0
        self._send = send
        self._rows: list[Floats] = []
        self._sum: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None

    @property
    def n_left(self) -> int:
        """Number of tokens that are still to be evaluated."""
        return len(self.prompt) - self.n_done

    @property
    def n_next(self) -> int:
        """Maximum number of tokens that the next step may evaluate: all that are left."""
        return self.n_left

    def begin(self, slot: Slot, n_cached: int) -> None:
        """Start in a slot.

        Its cache is empty, because every token must be evaluated: hidden states are not cached.
        """
        self.slot, self.n_done = slot, n_cached

    def pause(self, paused: Pause) -> None:
        """Raise an error, because its text so far would be lost: hidden states are not cached."""
        raise RuntimeError("embeddings cannot be interrupted")

    def resume(self, slot: Slot) -> None:
        """Do nothing: an embedding is never interrupted."""

    @property
    def n_top(self) -> None:
        """Return None: its rows are no logits."""
        return None

    def outputs(self, n: int) -> range:
        """Return which of the next ``n`` tokens' hidden states are needed."""
        match self._pooling:
            case "cls":
                return range(0 if self.n_done else 1)
            case "last":
                return range(n - 1 if n >= self.n_left else n, n)
            case _:
                return range(n)

    def advance(self, n: int) -> None:
        """Record that ``n`` more tokens were evaluated."""
        self.n_done += n

    def take(self, rows: Floats, buffers: CandidateBuffers, ids: Ints | None = None) -> int:
        """Add hidden states, ``(m, n_embd)`` float32, in order; after the last token, send the result.

        Returns m. The mean is summed in float64 token by token, so it does not depend on how the text was divided.
        """
        n_rows = len(rows)
        if self._pooling == "mean":
            if self._sum is not None:
                rows = np.concatenate([self._sum[None], rows])
            self._sum = np.add.reduce(rows, axis=0, dtype=np.float64)  # along this axis, rows are added one by one
        else:
            self._rows.append(rows.copy())

        if not self.n_left:
            vectors = self._vectors()  # fails if the backend's hidden states have a wrong shape
            self.done = True
            self._send(Embedding(vectors, len(self.prompt), -1 if self.slot is None else self.slot.id))
        return n_rows

    def drawn(self, first: int = 0) -> Ints:
        """Return no tokens: an embedding draws none."""
        return NO_TOKENS

    def n_discard(self) -> int:
        """Return 0: an embedding never shifts its context."""
        return 0

    def end_at_full_context(self) -> None:
        """Do nothing: when the context is full, the whole text has been evaluated."""

    def note_shift(self) -> None:
        """Do nothing: an embedding never shifts its context."""

    def expire(self) -> None:
        """Fail because the deadline has passed."""
        self.fail(DeadlineExceeded("the deadline passed before the text was evaluated"))

    def fail(self, error: RequestError) -> None:
        """Send the error."""
        if not self.done:
            self.done = True
            self._send(error)

    def timings(self) -> Timings | None:
        """Return None: embeddings are not part of the statistics about generation."""
        return None

    def status(self) -> dict[str, Any]:
        """Return the fields of `SlotStatus` that an embedding knows."""
        return {"n_prompt": len(self.prompt), "n_prompt_processed": self.n_done}

    def _vectors(self) -> Floats:
        if self._sum is not None:
            rows = (self._sum / len(self.prompt)).astype(np.float32)[None]
        else:
            rows = np.concatenate(self._rows)
        if self.request.pooling == "rank" and self._rank_head:
            return np.array([[self._rank_head.score(rows[0])]], np.float32)
        return apply_layers(self._layers, rows)
