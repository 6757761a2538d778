"""One request being answered: its place in the cache, its text so far, and how it ends.

Made on the event loop, then changed on the engine thread alone. It knows nothing of batches and backends.
"""
from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np

from llamafw.engine import logprobs
from llamafw.engine.chain import Chain, DeadEnd
from llamafw.engine.detokenizer import Detokenizer, Piece
from llamafw.engine.slots import Slot
from llamafw.errors import RequestError
from llamafw.interfaces import Grammar, Tokenizer
from llamafw.types import Delta, Finish, Floats, GeneratedToken, GenerateRequest, Ints, StopType, Timings, TokenLogprob


class Sequence:
    """A request, from its arrival to its last delta.

    Parameters
    ----------
    n_ctx : int
        Positions of a slot: prompt and answer together fill no more.
    send : callable
        Takes deltas, and at most one error, which is then the last thing sent.
    """

    def __init__(
        self,
        request: GenerateRequest,
        prompt: Ints,
        chain: Chain,
        seed: int,
        tokenizer: Tokenizer,
        n_ctx: int,
        send: Callable[[Delta | RequestError], None],
    ) -> None:
        self.request, self.prompt, self.seed = request, prompt, seed
        self.slot: Slot | None = None
        self.last = -1  # the token drawn last, not yet evaluated
        self.done = False  # nothing more is to be computed or sent
        self.cancelled = False  # the client has gone; written by the event loop
        self._chain, self._tokenizer, self._send = chain, tokenizer, send
        self._text = Detokenizer(request.stop)
        room = n_ctx - len(prompt)
        wanted = request.n_predict if request.n_predict >= 0 else room
        self._limit, self._cut_short = min(wanted, room), request.n_predict < 0 or wanted > room
        self._n_predicted = 0
        self._n_cached = 0
        self._arrived = perf_counter()
        self._started = self._first = self._drawn = self._arrived

    # --- what the scheduler asks

    @property
    def n_left(self) -> int:
        """How many tokens of the prompt are still to be evaluated; 0: it generates."""
        return 0 if self.slot is None else max(len(self.prompt) - self.slot.n, 0)

    @property
    def wants_token(self) -> bool:
        """Whether the logits of the last token are wanted; not if only the prompt was to be evaluated."""
        return self._limit > 0

    def hold_to(self, grammar: Grammar) -> None:
        """Hold the answer to a grammar, at its start. On the event loop, before the engine has the sequence."""
        self._chain.grammar = grammar

    def begin(self, slot: Slot, n_cached: int) -> None:
        """Take a slot whose cache holds the first ``n_cached`` tokens of the prompt, and nothing else."""
        self.slot, self._n_cached = slot, n_cached
        self._started = perf_counter()

    # --- what the engine does

    def pick(self, ids: Ints, row: Floats) -> None:
        """Draw the next token; send what text is certain; finish if it is the last. For the arrays see `Chain.pick`.

        Raises
        ------
        RequestError
            A sampler failed, or nothing can be drawn.
        """
        request = self.request
        reported = request.logprobs or request.n_probs > 0
        raw = row.copy() if reported and not request.post_sampling_probs else None
        try:
            token, candidates = self._chain.pick(ids, row)
        except DeadEnd:
            return self.finish("none")
        logprob: float | None = None
        top: tuple[TokenLogprob, ...] = ()
        if raw is not None:
            logprob, top = logprobs.of_row(raw, token, request.n_probs)
        elif reported:
            logprob, top = logprobs.of_candidates(candidates, token, request.n_probs)
        self._push(GeneratedToken(token, self._tokenizer.piece(token), logprob, top))

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
        if not self._n_predicted:
            self._first = now
        self._drawn, self.last = now, token.id
        self._n_predicted += 1
        piece, word = self._text.feed(token)
        if word is not None:
            self._end(piece, "word", word)
        elif token.id in self._tokenizer.eog or (self._chain.grammar is not None and self._chain.grammar.ended):
            self._end(piece, "eos")
        elif self._n_predicted >= self._limit:
            self._end(piece, "limit", truncated=self._cut_short)
        elif piece[0] or piece[1]:
            self._send(Delta(*piece, self._id_slot()))

    def _end(self, piece: Piece, stop_type: StopType, word: str | None = None, truncated: bool = False) -> None:
        self.done = True
        text, tokens = piece
        if word is None:
            (rest, more), word = self._text.flush()
            text, tokens = text + rest, tokens + more
            if word is not None:  # half a character, turned into U+FFFD, completed it
                stop_type, truncated = "word", False
        self._send(Delta(text, tokens, self._id_slot(), self._summary(stop_type, word or "", truncated)))

    def _summary(self, stop_type: StopType, word: str, truncated: bool) -> Finish:
        prompt_end = self._first if self._n_predicted else perf_counter()
        n_prompt = len(self.prompt)
        return Finish(
            stop_type,
            word,
            truncated,
            n_prompt=n_prompt,
            n_cached=self._n_cached,
            n_predicted=self._n_predicted,
            id_slot=self._id_slot(),
            seed=self.seed,
            timings=Timings(
                prompt_n=n_prompt - self._n_cached,
                prompt_ms=(prompt_end - self._started) * 1e3,
                predicted_n=self._n_predicted,
                predicted_ms=(self._drawn - prompt_end) * 1e3 if self._n_predicted else 0.0,
                queue_ms=(self._started - self._arrived) * 1e3,
            ),
        )

    def _id_slot(self) -> int:
        return -1 if self.slot is None else self.slot.id


def as_prompt(request: GenerateRequest, n_vocab: int) -> Ints:
    """Return the prompt as an array; RequestError if it holds something that is no token of the model."""
    prompt = request.prompt
    if prompt and not (min(prompt) >= 0 and max(prompt) < n_vocab):
        wrong = next(token for token in prompt if not 0 <= token < n_vocab)
        raise RequestError(f"token {wrong} is not in the vocabulary of {n_vocab}", param="prompt")
    return np.array(prompt, np.int32)
