"""A generation request in a slot: its sampler chain, its text so far, and the reason why it ends."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from math import inf
from typing import Any, Literal

import numpy as np

from llamafw.engine import context_shift
from llamafw.engine.detokenizer import Detokenizer, Piece
from llamafw.engine.pausing import Pause
from llamafw.engine.prompt import PreparedPrompt
from llamafw.engine.request_times import RequestTimes
from llamafw.engine.slots import NO_TOKENS, Slot
from llamafw.errors import DeadlineExceeded, RequestError
from llamafw.interfaces import Tokenizer
from llamafw.sampling.chain import Chain, NoTokenAllowed
from llamafw.sampling.constraint import Constraint
from llamafw.sampling.logprobs import logprobs_of_candidates, logprobs_of_row
from llamafw.sampling.reasoning import ReasoningConstraint
from llamafw.sampling.sampler_kernels import CandidateBuffers
from llamafw.types import (
    Delta,
    Finish,
    Floats,
    GeneratedToken,
    GenerateRequest,
    Ints,
    PromptProgress,
    StopType,
    Timings,
    TokenLogprob,
)

_MAX_LOGPROB_TOKENS = 64  # prompt tokens per step if their log-probabilities are needed: each has a row of logits
_NO_LIMIT = 2**62  # more tokens than any response can have


class Sequence:
    """A generation request from its arrival to its last delta.

    Implements `Task`.

    Parameters
    ----------
    request : GenerateRequest
        The request.
    prompt : PreparedPrompt
        Its prompt.
    chain : Chain
        Its samplers.
    constraint : Constraint or None
        Its grammar, in the initial state.
    seed : int
        The seed of the chain, to be reported at the end.
    tokenizer : Tokenizer
        Turns tokens into text.
    n_ctx : int
        Positions per slot. Prompt and response together do not exceed it, unless the request allows context shift.
    send : callable
        Receives deltas; if the request fails, the last item is the error.
    arrived : float, optional
        Time of arrival, from `time.perf_counter`; default: now.
    """

    output: Literal["logits", "hidden"] = "logits"
    failure_message = "the response could not be continued"
    types = None

    def __init__(
        self,
        request: GenerateRequest,
        prompt: PreparedPrompt,
        chain: Chain,
        constraint: Constraint | None,
        seed: int,
        tokenizer: Tokenizer,
        n_ctx: int,
        send: Callable[[Delta | RequestError], None],
        arrived: float | None = None,
    ) -> None:
        self.request, self.prompt, self.seed, self.adapters = request, prompt.tokens, seed, prompt.adapters
        self.n_keep, self._truncated = prompt.n_keep, prompt.truncated
        self.slot: Slot | None = None
        self.paused: Pause | None = None
        self.n_cache_reuse = request.n_cache_reuse
        self.last, self.draft = -1, NO_TOKENS
        self.done = self.cancelled = False
        self.chain, self._tokenizer, self._send = chain, tokenizer, send
        self._reasoning: ReasoningConstraint | None = None
        if request.reasoning is not None:
            self._reasoning = ReasoningConstraint(request.reasoning, tokenizer, constraint)
        self._constraint = self._reasoning or constraint
        self._text = Detokenizer(request.stop)

        room = n_ctx - len(self.prompt)
        requested = request.n_predict if request.n_predict >= 0 else _NO_LIMIT
        if request.n_predict == -2 or not request.context_shift:
            self._limit, self._limited_by_context = min(requested, room), requested > room
        else:
            self._limit, self._limited_by_context = requested, False

        self.n_predicted = self._n_drafted = self._n_accepted = 0
        self._drawn = array("i")  # 4 bytes per token: a response can be very long
        self.n_done = self.n_cached = 0  # prompt tokens in the cache: now, and when the sequence began
        self.stop_type: StopType = "none"
        self.stopping_word = ""
        self._n_reported = 0  # prompt tokens whose log-probabilities have been sent
        self._has_newline = False
        self._times = RequestTimes(arrived)
        self.arrived, self.level = self._times.arrived, request.sender.priority
        self.deadline = self.arrived + (inf if request.deadline_ms is None else request.deadline_ms / 1e3)

    # --- for the scheduler

    @property
    def n_answer_start(self) -> int | None:
        """See `GenerateRequest`."""
        return self.request.n_answer_start

    @property
    def n_left(self) -> int:
        """Number of prompt tokens that are still to be evaluated; 0 while it generates."""
        return len(self.prompt) - self.n_done

    @property
    def n_remain(self) -> int:
        """Number of tokens that may still be drawn; -1: no limit."""
        return -1 if self._limit == _NO_LIMIT else self._limit - self.n_predicted

    @property
    def n_next(self) -> int:
        """Maximum number of prompt tokens that the next step may evaluate."""
        return self.n_left if self.request.prompt_logprobs is None else min(self.n_left, _MAX_LOGPROB_TOKENS)

    def outputs(self, n: int) -> range:
        """Return which of the next ``n`` tokens' logits are needed.

        To draw a token, the logits of the last one are needed. To report log-probabilities of the prompt, those of all
        its tokens but the last are needed.
        """
        draws = n >= self.n_left and self._limit > 0
        if self.n_left and self.request.prompt_logprobs is not None:
            return range(n if draws or n < self.n_left else n - 1)
        return range(n - 1 if draws else n, n)

    @property
    def n_top(self) -> int | None:
        """How many of the most likely tokens the next draw needs; None: all."""
        request = self.request
        if request.prompt_logprobs is not None or (self._reports_logprobs and not request.post_sampling_probs):
            return None
        return self.chain.n_top if self._constraint is None or self._constraint.free else None

    @property
    def n_draftable(self) -> int:
        """How many tokens of a draft it could use now."""
        slot, requested = self.slot, self.request.draft_n_max
        if self.n_left or slot is None or len(slot.lost) or requested == 0:
            return 0
        n = min(self._limit - self.n_predicted, len(slot.tokens) - slot.n) - 1
        return n if requested is None else min(n, requested)

    def drawn(self, first: int = 0) -> Ints:
        """Return the tokens drawn so far, without the ``first`` ones."""
        return np.array(self._drawn[first:], np.int32)

    def begin(self, slot: Slot, n_cached: int) -> None:
        """Start in a slot whose cache holds exactly the first ``n_cached`` tokens of the prompt."""
        self.slot, self.n_cached, self.n_done = slot, n_cached, n_cached
        self._times.start()
        self._report_progress()

    def pause(self, paused: Pause) -> None:
        """Wait without a slot."""
        self._times.pause()
        self.slot, self.paused, self.draft = None, paused, NO_TOKENS

    def resume(self, slot: Slot) -> None:
        """Continue in a slot."""
        self._times.resume()
        self.slot, self.paused = slot, None

    def advance(self, n: int) -> None:
        """Record that ``n`` more tokens were evaluated."""
        if self.n_left:
            self.n_done = min(self.n_done + n, len(self.prompt))
            self._report_progress()

    def _report_progress(self) -> None:
        if self.request.return_progress:
            progress = PromptProgress(len(self.prompt), self.n_cached, self.n_done, self._times.prompt_ms_so_far)
            self._send(Delta("", id_slot=self._id_slot(), progress=progress))

    # --- after a forward pass

    def take(self, rows: Floats, buffers: CandidateBuffers, ids: Ints | None = None) -> int:
        """Report the prompt's log-probabilities if requested, then draw the next token.

        If there was a draft, further tokens are drawn, as long as they are those of the draft. Each comes from the
        logits after the tokens before it, as without a draft.

        Parameters
        ----------
        rows : (m, n) float32
            The logits of `outputs`. Logits beyond the tokenizer's vocabulary are ignored.
        buffers : CandidateBuffers
            The buffers of the calling thread.
        ids : (m, n) int32, optional
            The tokens of the logits, if there are only those of the `n_top` most likely ones.

        Returns
        -------
        int
            How many rows were used.

        Raises
        ------
        RequestError
            A sampler or the grammar failed, or every token is forbidden.
        """
        n_reported, rows = len(rows), self._report_prompt_logprobs(rows[:, : len(buffers.ids)])
        if not len(rows):
            if not self.n_left:  # the request only asked to evaluate the prompt
                self._end(("", ()), "limit")
            return n_reported

        draft, self.draft = self.draft, NO_TOKENS
        self._n_drafted += len(draft)
        for i, expected in enumerate([*draft.tolist(), None]):
            self._draw_token(buffers, rows[i], None if ids is None else ids[i])
            if self.done or self.last != expected:
                break
            self._n_accepted += 1
            if ids is not None and self.n_top is None:  # the next token needs all logits
                break
        return n_reported - len(rows) + i + 1

    def _report_prompt_logprobs(self, rows: Floats) -> Floats:
        """Send the log-probabilities of the prompt tokens that follow ``rows``; return the rows that are left."""
        n_top, first = self.request.prompt_logprobs, max(self._n_reported, 1)
        if n_top is None or self._n_reported == len(self.prompt):
            return rows
        tokens = self.prompt[first : first + len(rows)].tolist()
        report: list[GeneratedToken] = []
        if not self._n_reported:  # the first token has no log-probability, because nothing precedes it
            token = int(self.prompt[0])
            report.append(GeneratedToken(token, self._full_piece(token)))
        for token, row in zip(tokens, rows, strict=False):
            logprob, top = logprobs_of_row(row, token, n_top)
            report.append(GeneratedToken(token, self._full_piece(token), logprob, top))

        self._n_reported = first + len(tokens)
        self._send(Delta("", id_slot=self._id_slot(), prompt=tuple(report)))
        return rows[len(tokens) :]

    def _full_piece(self, token: int) -> bytes:
        return self._tokenizer.piece(token, special=True)

    @property
    def _reports_logprobs(self) -> bool:
        return self.request.logprobs or self.request.n_probs > 0

    def _draw_token(self, buffers: CandidateBuffers, row: Floats, ids: Ints | None) -> None:
        """Draw the next token from a row of logits, send new text, and finish if it is the last token."""
        request = self.request
        original = row.copy() if self._reports_logprobs and not request.post_sampling_probs else None
        try:
            token, candidates = self.chain.pick(buffers, row, self._constraint, ids=ids)
        except NoTokenAllowed:
            return self._end(("", ()), "none")

        logprob: float | None = None
        top: tuple[TokenLogprob, ...] = ()
        if original is not None:
            logprob, top = logprobs_of_row(original, token, request.n_probs)
        elif self._reports_logprobs:
            logprob, top = logprobs_of_candidates(candidates, token, request.n_probs)
        piece = self._tokenizer.piece(token, special=request.special or token in request.visible)
        self._append(GeneratedToken(token, piece, logprob, top))

    def _append(self, token: GeneratedToken) -> None:
        """Add a drawn token; send the text that is now certain, or the last delta."""
        self._times.draw()
        self.last = token.id
        self.n_predicted += 1
        self._drawn.append(token.id)
        self._has_newline = self._has_newline or b"\n" in token.piece

        piece, word = self._text.feed(token)
        if word is not None:
            self._end(piece, "word", word)
        elif token.id in self._tokenizer.eog or (self._constraint is not None and self._constraint.ended):
            self._end(piece, "eos")
        elif self.n_predicted >= self._limit:
            self._end(piece, "limit", truncated=self._limited_by_context)
        elif self._has_newline and self._is_over_time():
            self._end(piece, "limit")
        elif piece[0] or piece[1]:
            self._send(Delta(*piece, self._id_slot(), timings=self._timings_if_requested()))

    def _is_over_time(self) -> bool:
        limit = self.request.t_max_predict_ms
        return limit is not None and self._times.predicted_ms > limit

    # --- context shift

    def n_discard(self) -> int:
        """Return how many tokens after the first ``n_keep`` to drop from the full context; 0: none."""
        n = 0 if self.slot is None else self.slot.n
        return context_shift.n_discarded(n, self.n_keep, self.request.n_discard)

    def end_at_full_context(self) -> None:
        """Finish because the context is full and nothing can be dropped."""
        self._end(("", ()), "limit", truncated=True)

    def note_shift(self) -> None:
        """Record that tokens were dropped from the context."""
        self._truncated = True

    # --- the end

    def expire(self) -> None:
        """Finish because the deadline has passed.

        It is an error if no text has been generated yet.
        """
        if self.n_predicted:
            self._end(("", ()), "limit")
        else:
            self.fail(DeadlineExceeded("deadline_ms passed before a token was generated", param="deadline_ms"))

    def fail(self, error: RequestError) -> None:
        """Send the text that was held back, then the error."""
        if self.done:
            return
        self.done = True
        (text, tokens), _ = self._text.flush()
        if text or tokens:
            self._send(Delta(text, tokens, self._id_slot()))
        self._send(error)

    def _end(self, piece: Piece, stop_type: StopType, word: str | None = None, truncated: bool = False) -> None:
        """Send the last delta, including all text that was held back."""
        self.done = True
        text, tokens = piece
        if word is None:
            (rest, more), word = self._text.flush()
            text, tokens = text + rest, tokens + more
            if word is not None:  # an incomplete character became U+FFFD and completed the stop string
                stop_type, truncated = "word", False
        self.stop_type, self.stopping_word = stop_type, word or ""
        finish = self._finish(truncated or self._truncated)
        self._send(Delta(text, tokens, self._id_slot(), finish, self._timings_if_requested()))

    def _finish(self, truncated: bool) -> Finish:
        return Finish(
            self.stop_type,
            self.stopping_word,
            truncated,
            n_prompt=len(self.prompt),
            n_cached=self.n_cached,
            n_predicted=self.n_predicted,
            n_reasoning=0 if self._reasoning is None else self._reasoning.n_tokens,
            id_slot=self._id_slot(),
            seed=self.seed,
            timings=self.timings(),
            tokens=tuple(self._drawn),
        )

    # --- for observers

    def timings(self) -> Timings:
        """Return the counts and times so far."""
        counts = {"cache_n": self.n_cached, "prompt_n": self.n_done - self.n_cached, "predicted_n": self.n_predicted}
        return self._times.timings(counts | {"draft_n": self._n_drafted, "draft_n_accepted": self._n_accepted})

    def status(self) -> dict[str, Any]:
        """Return the fields of `SlotStatus` that a generation knows."""
        return {
            "request": self.request,
            "n_prompt": len(self.prompt),
            "n_prompt_processed": self.n_done - self.n_cached,
            "n_cached": self.n_cached,
            "n_decoded": self.n_predicted,
            "n_remain": self.n_remain,
            "stop_type": self.stop_type,
            "stopping_word": self.stopping_word,
        }

    def _timings_if_requested(self) -> Timings | None:
        return self.timings() if self.request.timings_per_token else None

    def _id_slot(self) -> int:
        return -1 if self.slot is None else self.slot.id
