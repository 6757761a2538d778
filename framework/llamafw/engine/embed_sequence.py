"""One text being embedded: its hidden states, pooled as they come. It knows nothing of batches and backends."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np

from llamafw.engine.rank_head import RankHead
from llamafw.engine.slots import Slot
from llamafw.errors import RequestError
from llamafw.types import Embedding, EmbedRequest, Floats, Ints


class EmbedSequence:
    """A request for an embedding, from its arrival to its result. Scheduled like a `Sequence`, but never beside one.

    Parameters
    ----------
    send : callable
        Takes the result, or the error, which is then the only thing sent.
    head : RankHead, optional
        What makes a score of the last state, for the pooling "rank".
    """

    embeds = True
    deadline = float("inf")

    def __init__(
        self,
        request: EmbedRequest,
        prompt: Ints,
        send: Callable[[Embedding | RequestError], None],
        head: RankHead | None = None,
    ) -> None:
        self.request, self.prompt, self._head = request, prompt, head
        self.slot: Slot | None = None
        self.last = -1
        self.done = self.cancelled = False
        self.arrived = self.started = perf_counter()
        self.n_done = 0
        self._send = send
        self._rows: list[Floats] = []
        self._sum: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None

    @property
    def n_left(self) -> int:
        """How many tokens are still to be evaluated."""
        return len(self.prompt) - self.n_done

    @property
    def n_next(self) -> int:
        """How many of them may be evaluated in the next step: all."""
        return self.n_left

    def begin(self, slot: Slot, n_cached: int) -> None:
        """Take a slot, whose cache is empty: hidden states are not kept, so all must be evaluated."""
        self.slot, self.n_done, self.started = slot, n_cached, perf_counter()

    def outputs(self, n: int) -> range:
        """Return which of the next ``n`` tokens' hidden states are wanted."""
        match self.request.pooling:
            case "cls":
                return range(0 if self.n_done else 1)
            case "last" | "rank":
                return range(n - 1 if n >= self.n_left else n, n)
            case _:
                return range(n)

    def advance(self, n: int) -> None:
        """Note that ``n`` more tokens have been evaluated."""
        self.n_done += n

    def take(self, rows: Floats) -> None:
        """Take hidden states, ``(m, n_embd)``, in order; send the result after the last token.

        The mean is summed in float64, token by token, so that it does not matter how the text was cut.
        """
        if self.request.pooling == "mean":
            for row in rows:
                self._sum = row.astype(np.float64) if self._sum is None else self._sum + row
        else:
            self._rows.append(rows.copy())
        if not self.n_left:
            vectors = self._vectors()  # which may fail, if a backend's states are none
            self.done = True
            self._send(Embedding(vectors, len(self.prompt), -1 if self.slot is None else self.slot.id))

    def fail(self, error: RequestError) -> None:
        """Send the error."""
        if not self.done:
            self.done = True
            self._send(error)

    def _vectors(self) -> Floats:
        if self._sum is not None:
            return (self._sum / len(self.prompt)).astype(np.float32)[None]
        rows = np.concatenate(self._rows)
        if self.request.pooling == "rank" and self._head:
            return np.array([[self._head.score(rows[0])]], np.float32)
        return rows
