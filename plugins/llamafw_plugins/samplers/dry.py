"""DRY ("don't repeat yourself"): make tokens less likely that would continue a repeated passage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from llamafw import Candidates, JsonSchema, Sampler, SamplerContext, SamplerKernel
from llamafw_plugins.samplers.sequence_breakers import Breaker, Mask, find_breakers

_HEADER = 6  # values before the tokens in the options of the kernel
_MAX_LENGTH, _START, _END = 3, 4, 5  # indices of the values that change


class Dry:
    """Subtracts ``multiplier · base ** (n - allowed_length)`` from the logits of tokens with n ≥ allowed_length.

    n is the length of the longest passage at the end of the text that occurred before, followed by this token. Only the
    last ``last_n`` tokens of prompt and response are searched, and passages begin after the last sequence breaker.
    Tokens that contain a sequence breaker are not penalised. Each token takes time proportional to ``last_n``.

    Defined by Philipp Emanuel Weidmann: https://github.com/oobabooga/text-generation-webui/pull/5677

    Parameters
    ----------
    prompt : sequence of int
        The request's tokens.
    multiplier : float
        The strength of the penalty.
    base : float
        The factor by which the penalty grows with each token.
    allowed_length : int
        The length in tokens of the shortest passage that is penalised.
    last_n : int
        The number of last tokens to search, at least 1.
    n_vocab : int
        Number of logits.
    breakers : sequence of Breaker
        The sequence breakers.
    """

    options: ClassVar[JsonSchema] = {
        "dry_multiplier": {
            "type": "number",
            "default": 0.0,
            "minimum": 0,
            "maximum": 1000,
            "description": "Strength of the DRY penalty on repeated passages; 0: off.",
        },
        "dry_base": {
            "type": "number",
            "default": 1.75,
            "minimum": 1,
            "maximum": 1000,
            "description": "Factor by which the DRY penalty grows with each token of the repeated passage.",
        },
        "dry_allowed_length": {
            "type": "integer",
            "default": 2,
            "minimum": 0,
            "maximum": 2**31 - 1,
            "description": "Length in tokens of the shortest repeated passage that DRY penalises.",
        },
        "dry_penalty_last_n": {
            "type": "integer",
            "default": 64,
            "minimum": -1,
            "maximum": 2**31 - 1,
            "description": "Number of last tokens that DRY searches; 0: none, -1: the whole context.",
        },
        "dry_sequence_breakers": {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": 40},
            "maxItems": 64,
            "default": ["\n", ":", '"', "*"],
            "description": "Texts that end a passage: DRY finds no repetitions across them.",
        },
    }
    truncates: ClassVar[bool] = False

    def __init__(
        self,
        prompt: Sequence[int],
        *,
        multiplier: float,
        base: float = 1.75,
        allowed_length: int = 2,
        last_n: int,
        n_vocab: int,
        breakers: Sequence[Breaker] = (),
    ) -> None:
        from llamafw_plugins.samplers import kernels  # here, because it imports numba

        self._last_n = last_n
        # a model may have more logits than its vocabulary has tokens, and fewer
        self._whole = np.zeros(max(n_vocab, *(len(breaker.whole) for breaker in breakers), 0), np.bool_)
        self._tails: dict[int, list[tuple[tuple[int, ...], Mask]]] = defaultdict(list)  # by last token: tail, heads
        for breaker in breakers:
            self._whole[: len(breaker.whole)] |= breaker.whole
            for heads, tail in breaker.parts:
                self._tails[tail[-1]].append((tail, heads))

        window = np.array(prompt[-last_n:], np.int64)
        values = np.empty(_HEADER + 2 * last_n)  # pages use memory only once they are written
        values[:_HEADER] = multiplier, base, allowed_length, 0, 0, 0
        self.kernel, self._tokens = SamplerKernel(kernels.dry, values), values[_HEADER:]
        self._tokens[: len(window)] = np.where(self._whole[window], -1 - window, window)
        self._start, self._end = 0, len(window)
        self._break = -1, 0  # the last token that begins a breaker, and the number of tokens that follow in it
        self._find_last_break(window)
        self._update_header()

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        """Return a sampler for one request, or None if no passage can be penalised."""
        multiplier, last_n = float(options["dry_multiplier"]), int(options["dry_penalty_last_n"])
        if not multiplier or not last_n:
            return None
        return cls(
            context.prompt,
            multiplier=multiplier,
            base=float(options["dry_base"]),
            allowed_length=int(options["dry_allowed_length"]),
            last_n=context.n_ctx if last_n < 0 else min(last_n, context.n_ctx),
            n_vocab=context.n_vocab,
            breakers=find_breakers(options["dry_sequence_breakers"], context.tokenizer),
        )

    def apply(self, candidates: Candidates) -> None:
        """Run the kernel."""
        self.kernel.apply(candidates)

    def accept(self, token: int) -> None:
        """Add a token to the window, and remove the oldest one from a full window."""
        if self._end == len(self._tokens):  # move the window back to the front
            n = self._end - self._start
            self._tokens[:n] = self._tokens[self._start : self._end]
            self._break = self._break[0] - self._start, self._break[1]
            self._start, self._end = 0, n

        self._tokens[self._end] = -1 - token if self._whole[token] else token
        self._end += 1
        self._start = max(self._start, self._end - self._last_n)
        self._note_breaks(self._end - 1)
        self._update_header()

    def _find_last_break(self, window: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        """Find the breaker that begins last in the window."""
        ends = self._whole[window] | np.isin(window, list(self._tails))
        for end in np.flatnonzero(ends)[::-1].tolist():
            if end < self._break[0]:  # no breaker that ends here or earlier begins later
                break
            self._note_breaks(end)

    def _note_breaks(self, end: int) -> None:
        """Remember the breaker that begins last, and the longest of several, among those that end at ``end``."""
        token = int(self._tokens[end])
        if token < 0:
            token = -1 - token
            self._break = max(self._break, (end, 0))
        for tail, heads in self._tails.get(token, ()):
            begin = end - len(tail)
            head = self._token(begin) if begin >= self._start else len(heads)
            if head >= len(heads) or not heads[head]:
                continue
            if all(self._token(begin + 1 + i) == tail[i] for i in range(len(tail))):
                self._break = max(self._break, (begin, len(tail)))

    def _token(self, at: int) -> int:
        token = int(self._tokens[at])
        return token if token >= 0 else -1 - token

    def _update_header(self) -> None:
        begin, n_following = self._break
        n = self._end - self._start
        max_length = self._end - 1 - begin - n_following if begin >= self._start else n
        self.kernel.options[[_MAX_LENGTH, _START, _END]] = max_length, self._start, self._end
