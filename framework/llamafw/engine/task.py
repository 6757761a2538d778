"""Defines the protocol of a request that the scheduler and the worker process."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from llamafw.engine.pausing import Pause
from llamafw.engine.slots import Slot
from llamafw.errors import RequestError
from llamafw.sampling.chain import Chain
from llamafw.sampling.sampler_kernels import CandidateBuffers
from llamafw.types import EmbedRequest, Floats, GenerateRequest, Ints, Strengths, Timings


class Task(Protocol):
    """A request from its arrival to its result.

    Created on the event loop, then used on the engine thread alone.

    The event loop only writes ``cancelled``.
    """

    slot: Slot | None  # None while it waits
    last: int  # the last token drawn, not evaluated yet
    draft: Ints  # tokens that may follow it, which the next step verifies; set by `Speculation`
    n_done: int  # prompt tokens that are in the slot's cache
    done: bool  # nothing more is computed or sent
    cancelled: bool  # the client disconnected
    level: int  # its priority as it counted when it got its slot; see `WaitingLine`
    paused: Pause | None  # what is left of its slot, if a more urgent task has got it

    @property
    def request(self) -> GenerateRequest | EmbedRequest:
        """The request."""

    @property
    def chain(self) -> Chain | None:
        """What draws the tokens; None: none are drawn."""

    @property
    def prompt(self) -> Ints:
        """The prompt's tokens, ``(n_prompt,)``."""

    @property
    def types(self) -> Ints | None:
        """The types of the prompt's tokens, ``(n_prompt,)``; None: all are 0."""

    @property
    def adapters(self) -> Strengths:
        """The adapters that the tokens are evaluated with."""

    @property
    def output(self) -> Literal["logits", "hidden"]:
        """The output that the task needs from the backend.

        A forward pass computes only one kind.
        """

    @property
    def failure_message(self) -> str:
        """The message for the client if `take` raises an unexpected error."""

    @property
    def arrived(self) -> float:
        """Time of arrival, from `time.perf_counter`."""

    @property
    def deadline(self) -> float:
        """Time at which the task expires, from `time.perf_counter`."""

    @property
    def n_keep(self) -> int:
        """Number of tokens at the start that a context shift never drops."""

    @property
    def n_answer_start(self) -> int | None:
        """Number of tokens at the end of the prompt that later prompts may not repeat; None: unknown."""

    @property
    def n_cache_reuse(self) -> int:
        """Minimum length of the parts of the prompt that are reused from other positions; 0: none."""

    @property
    def n_left(self) -> int:
        """Number of prompt tokens that are still to be evaluated; 0 while it generates."""

    @property
    def n_next(self) -> int:
        """Maximum number of prompt tokens that the next step may evaluate."""

    @property
    def n_draftable(self) -> int:
        """How many tokens of a draft the task could use now; 0: it wants no draft."""

    @property
    def n_predicted(self) -> int:
        """Number of tokens drawn so far."""

    def drawn(self, first: int = 0) -> Ints:
        """Return the tokens drawn so far, without the ``first`` ones."""

    def begin(self, slot: Slot, n_cached: int) -> None:
        """Start in a slot whose cache holds exactly the first ``n_cached`` tokens of the prompt."""

    def pause(self, paused: Pause) -> None:
        """Wait without a slot, in order to continue; only for tasks that need logits."""

    def resume(self, slot: Slot) -> None:
        """Continue in a slot; the tokens that it lacks are its lost tokens."""

    def outputs(self, n: int) -> range:
        """Return which of the next ``n`` tokens need an output row."""

    def advance(self, n: int) -> None:
        """Record that ``n`` more tokens were evaluated."""

    @property
    def n_top(self) -> int | None:
        """How many of the highest logits of its output rows it needs; None: all."""

    def take(self, rows: Floats, buffers: CandidateBuffers, ids: Ints | None = None) -> int:
        """Process the output rows, ``(len(outputs), …)`` float32, of the tokens just evaluated.

        Returns how many rows were used. If there are more, they belong to tokens of the draft that were not drawn.

        Parameters
        ----------
        rows : (m, n) float32
            The rows.
        buffers : CandidateBuffers
            The buffers of the calling thread.
        ids : (m, n) int32, optional
            The tokens of the logits, in descending order, if there are only those of the most likely ones.

        Raises
        ------
        RequestError
            The request failed; the worker passes the error to `fail`.
        """

    def n_discard(self) -> int:
        """Return how many tokens after the first ``n_keep`` to drop from the full context; 0: none."""

    def end_at_full_context(self) -> None:
        """Finish because the context is full and nothing can be dropped."""

    def note_shift(self) -> None:
        """Record that tokens were dropped from the context."""

    def expire(self) -> None:
        """Finish because the deadline has passed."""

    def fail(self, error: RequestError) -> None:
        """Send ``error`` to the client.

        Does nothing if the task is already done.
        """

    def timings(self) -> Timings | None:
        """Return the counts and times so far; None if they are not part of the statistics."""

    def status(self) -> dict[str, Any]:
        """Return the fields of `SlotStatus` that this task knows."""
