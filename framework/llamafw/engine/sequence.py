"""One request being answered: its place in the cache, its text so far, and how it ends.

Made on the event loop, then changed on the engine thread alone. It knows nothing of batches and backends.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Callable
from math import inf
from time import perf_counter

import numpy as np

from llamafw.engine.detokenizer import Detokenizer, Piece
from llamafw.engine.slots import Slot
from llamafw.errors import DeadlineExceeded, RequestError
from llamafw.interfaces import Grammar, Tokenizer
from llamafw.sampling import logprobs
from llamafw.sampling.chain import Chain, DeadEnd
from llamafw.sampling.kernels import CandidateBuffers
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

_TOLD = 64  # tokens of a prompt evaluated at a time if each one's log-probability is wanted: each has a row of logits
_ENDLESS = 2**62  # more tokens than anybody will see


class Sequence:
    """A request, from its arrival to its last delta.

    Parameters
    ----------
    n_ctx : int
        Positions of a slot. Prompt and answer together fill no more, unless the request lets the context shift.
    n_keep : int
        Tokens of the start that no shift drops.
    truncated : bool
        Something of the prompt was cut out.
    send : callable
        Takes deltas, and at most one error, which is then the last thing sent.
    """

    embeds = False

    def __init__(
        self,
        request: GenerateRequest,
        prompt: Ints,
        chain: Chain,
        seed: int,
        tokenizer: Tokenizer,
        n_ctx: int,
        send: Callable[[Delta | RequestError], None],
        n_keep: int = 0,
        truncated: bool = False,
    ) -> None:
        self.request, self.prompt, self.seed, self.n_keep = request, prompt, seed, n_keep
        self.truncated = truncated
        self.slot: Slot | None = None
        self.last = -1  # the token drawn last, not yet evaluated
        self.done = False  # nothing more is to be computed or sent
        self.cancelled = False  # the client has gone; written by the event loop
        self._chain, self._tokenizer, self._send = chain, tokenizer, send
        self._text = Detokenizer(request.stop)
        room = n_ctx - len(prompt)
        wanted = request.n_predict if request.n_predict >= 0 else _ENDLESS
        if request.n_predict == -2 or not request.context_shift:
            self._limit, self._cut_short = min(wanted, room), wanted > room
        else:
            self._limit, self._cut_short = wanted, False
        self.n_predicted = 0
        self._sampled = array("i")  # 4 bytes each: an answer may have no end
        self.n_done = self.n_cached = 0  # tokens of the prompt that are in the cache, and that were when it began
        self.stop_type: StopType = "none"
        self.stopping_word = ""
        self._n_told = 0  # tokens of the prompt whose log-probabilities have been sent
        self._line_ended = False
        self.arrived = perf_counter()
        self.deadline = self.arrived + (inf if request.deadline_ms is None else request.deadline_ms / 1e3)
        self.started = self._first = self._drawn = self.arrived

    # --- what the scheduler asks

    @property
    def n_left(self) -> int:
        """How many tokens of the prompt are still to be evaluated; 0: it generates."""
        return len(self.prompt) - self.n_done

    @property
    def n_remain(self) -> int:
        """How many tokens may still be drawn; -1: any number."""
        return -1 if self._limit == _ENDLESS else self._limit - self.n_predicted

    @property
    def n_next(self) -> int:
        """How many tokens of the prompt may be evaluated in the next step."""
        return self.n_left if self.request.prompt_logprobs is None else min(self.n_left, _TOLD)

    def outputs(self, n: int) -> range:
        """Return which of the next ``n`` tokens' logits are wanted.

        The last one's, if an answer is; and if the prompt's log-probabilities are, those of every token before another.
        """
        answers = n >= self.n_left and self._limit > 0
        if self.n_left and self.request.prompt_logprobs is not None:
            return range(n if answers or n < self.n_left else n - 1)
        return range(n - 1 if answers else n, n)

    def advance(self, n: int) -> None:
        """Note that ``n`` more tokens have been evaluated."""
        if self.n_left:
            self.n_done = min(self.n_done + n, len(self.prompt))
            self._report()

    def hold_to(self, grammar: Grammar, field: str) -> None:
        """Hold the answer to a grammar, at its start. On the event loop, before the engine has the sequence."""
        self._chain.grammar, self._chain.field = grammar, field

    def begin(self, slot: Slot, n_cached: int) -> None:
        """Take a slot whose cache holds the first ``n_cached`` tokens of the prompt, and nothing else."""
        self.slot, self.n_cached, self.n_done = slot, n_cached, n_cached
        self.started = perf_counter()
        self._report()

    def _report(self) -> None:
        if self.request.return_progress:
            ms = (perf_counter() - self.started) * 1e3
            progress = PromptProgress(len(self.prompt), self.n_cached, self.n_done, ms)
            self._send(Delta("", id_slot=self._id_slot(), progress=progress))

    # --- what the engine does

    def tell_prompt(self, rows: Floats) -> Floats:
        """Send the log-probabilities of the prompt's tokens that ``rows`` stand before; return the other rows."""
        n_top, first = self.request.prompt_logprobs, max(self._n_told, 1)
        if n_top is None or self.n_predicted:
            return rows
        tokens = self.prompt[first : first + len(rows)].tolist()
        found = [(token, *logprobs.of_row(row, token, n_top)) for token, row in zip(tokens, rows, strict=False)]
        told = [GeneratedToken(token, self._whole_piece(token), value, top) for token, value, top in found]
        if not self._n_told:  # nothing stands before the first
            token = int(self.prompt[0])
            told.insert(0, GeneratedToken(token, self._whole_piece(token)))
        self._n_told = first + len(tokens)
        self._send(Delta("", id_slot=self._id_slot(), prompt=tuple(told)))
        return rows[len(tokens) :]

    def _whole_piece(self, token: int) -> bytes:
        return self._tokenizer.piece(token, special=True)

    def pick(self, vocabulary: CandidateBuffers, row: Floats) -> None:
        """Draw the next token; send what text is certain; finish if it is the last. See `Chain.pick`.

        Raises
        ------
        RequestError
            A sampler failed, or nothing can be drawn.
        """
        request = self.request
        reported = request.logprobs or request.n_probs > 0
        raw = row.copy() if reported and not request.post_sampling_probs else None
        try:
            token, candidates = self._chain.pick(vocabulary, row)
        except DeadEnd:
            return self.finish("none")
        logprob: float | None = None
        top: tuple[TokenLogprob, ...] = ()
        if raw is not None:
            logprob, top = logprobs.of_row(raw, token, request.n_probs)
        elif reported:
            logprob, top = logprobs.of_candidates(candidates, token, request.n_probs)
        piece = self._tokenizer.piece(token, special=request.special)
        self._push(GeneratedToken(token, piece, logprob, top))

    def finish(self, stop_type: StopType, word: str | None = None, *, truncated: bool = False) -> None:
        """Send the last delta, with all that was withheld."""
        self._end(("", ()), stop_type, word, truncated)

    def fail(self, error: RequestError) -> None:
        """Send what text there is, then the error."""
        if self.done:
            return
        self.done = True
        (text, tokens), _ = self._text.flush()
        if text or tokens:
            self._send(Delta(text, tokens, self._id_slot()))
        self._send(error)

    def _push(self, token: GeneratedToken) -> None:
        now = perf_counter()
        if not self.n_predicted:
            self._first = now
        self._drawn, self.last = now, token.id
        self.n_predicted += 1
        self._sampled.append(token.id)
        self._line_ended = self._line_ended or b"\n" in token.piece
        piece, word = self._text.feed(token)
        if word is not None:
            self._end(piece, "word", word)
        elif token.id in self._tokenizer.eog or (self._chain.grammar is not None and self._chain.grammar.ended):
            self._end(piece, "eos")
        elif self.n_predicted >= self._limit:
            self._end(piece, "limit", truncated=self._cut_short)
        elif self._line_ended and self._takes_too_long(now):
            self._end(piece, "limit")
        elif piece[0] or piece[1]:
            self._send(Delta(*piece, self._id_slot(), timings=self._timings_so_far()))

    def _takes_too_long(self, now: float) -> bool:
        most = self.request.t_max_predict_ms
        return most is not None and (now - self._first) * 1e3 > most

    def expire(self) -> None:
        """End it: its deadline has come. What was said stands; if that is nothing, it is an error."""
        if self.n_predicted:
            self.finish("limit")
        else:
            self.fail(DeadlineExceeded("deadline_ms was over before there was an answer", param="deadline_ms"))

    def _end(self, piece: Piece, stop_type: StopType, word: str | None = None, truncated: bool = False) -> None:
        self.done = True
        text, tokens = piece
        if word is None:
            (rest, more), word = self._text.flush()
            text, tokens = text + rest, tokens + more
            if word is not None:  # half a character, turned into U+FFFD, completed it
                stop_type, truncated = "word", False
        self.stop_type, self.stopping_word = stop_type, word or ""
        summary = self._summary(truncated or self.truncated)
        self._send(Delta(text, tokens, self._id_slot(), summary, self._timings_so_far()))

    def _summary(self, truncated: bool) -> Finish:
        return Finish(
            self.stop_type,
            self.stopping_word,
            truncated,
            n_prompt=len(self.prompt),
            n_cached=self.n_cached,
            n_predicted=self.n_predicted,
            id_slot=self._id_slot(),
            seed=self.seed,
            timings=self.timings(),
            tokens=tuple(self._sampled),
        )

    def timings(self) -> Timings:
        """Return the counts and times so far."""
        prompt_end = self._first if self.n_predicted else perf_counter()
        return Timings(
            cache_n=self.n_cached,
            prompt_n=self.n_done - self.n_cached,
            prompt_ms=(prompt_end - self.started) * 1e3,
            predicted_n=self.n_predicted,
            predicted_ms=(self._drawn - prompt_end) * 1e3 if self.n_predicted else 0.0,
            queue_ms=(self.started - self.arrived) * 1e3,
        )

    def _timings_so_far(self) -> Timings | None:
        return self.timings() if self.request.timings_per_token else None

    def _id_slot(self) -> int:
        return -1 if self.slot is None else self.slot.id


def as_prompt(prompt: tuple[int, ...], n_vocab: int) -> Ints:
    """Return the prompt as an array; RequestError if it holds something that is no token of the model."""
    with contextlib.suppress(OverflowError):  # of an id that is out of all bounds
        tokens = np.fromiter(prompt, np.int32, len(prompt))
        if not len(tokens) or (tokens.min() >= 0 and tokens.max() < n_vocab):
            return tokens
    wrong = next(token for token in prompt if not 0 <= token < n_vocab)
    raise RequestError(f"token {wrong} is not in the vocabulary of {n_vocab}", param="prompt")
