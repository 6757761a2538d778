"""Make tokens that occurred lately less likely."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from llamafw import Candidates, JsonSchema, RequestError, Sampler, SamplerContext, SamplerKernel


class Penalties:
    """Penalise the tokens among the last ``repeat_last_n`` of prompt and answer.

    First ``logit = logit / repeat_penalty``, or times it if negative (Keskar et al.: CTRL, 2019, §4.1); then
    ``logit -= count · frequency_penalty + presence_penalty`` (as the OpenAI API has it).

    Parameters
    ----------
    window : int
        How many tokens are looked back on; at least 1.
    spared : int, optional
        A token that is never penalised.
    """

    options: ClassVar[JsonSchema] = {
        "repeat_penalty": {
            "type": "number",
            "default": 1.0,
            "minimum": 0.01,
            "maximum": 100,
            "description": "Divides the score of tokens that occurred; 1: off.",
        },
        "repeat_last_n": {
            "type": "integer",
            "default": 64,
            "minimum": -1,
            "maximum": 2**31 - 1,
            "description": "How many tokens the penalties look back on; 0: none, -1: the whole context.",
        },
        "presence_penalty": {
            "type": "number",
            "default": 0.0,
            "minimum": -1000,
            "maximum": 1000,
            "description": "Subtracted once from the score of tokens that occurred; 0: off.",
        },
        "frequency_penalty": {
            "type": "number",
            "default": 0.0,
            "minimum": -1000,
            "maximum": 1000,
            "description": "Subtracted from the score of tokens for each time they occurred; 0: off.",
        },
        "penalize_nl": {
            "type": "boolean",
            "default": False,
            "description": "Penalise the newline token too.",
        },
    }
    truncates: ClassVar[bool] = False

    def __init__(
        self,
        prompt: Sequence[int],
        n_vocab: int,
        *,
        window: int,
        repeat: float = 1.0,
        presence: float = 0.0,
        frequency: float = 0.0,
        spared: int | None = None,
    ) -> None:
        from llamafw_plugins.samplers import kernels  # with numba

        self._window, self._n_window, self._spared = deque[int](), window, spared
        options = np.empty(4 + 2 * min(window, n_vocab))  # memory is only taken as it is filled
        options[:4] = repeat, presence, frequency, 0
        self._tokens = options[4:].reshape(-1, 2)  # [:n] the distinct tokens of the window, and how often each is there
        self._at: dict[int, int] = {}  # token → its index
        self.kernel = SamplerKernel(kernels.penalties, options)
        for token in prompt[-window:]:
            self.accept(token)

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        window, repeat = int(options["repeat_last_n"]), float(options["repeat_penalty"])
        presence, frequency = float(options["presence_penalty"]), float(options["frequency_penalty"])
        if not repeat > 0:
            raise RequestError("repeat_penalty must be above 0", param="repeat_penalty")
        if window == 0 or (repeat == 1 and not presence and not frequency):
            return None
        return cls(
            context.prompt,
            context.n_vocab,
            window=context.n_ctx if window < 0 else min(window, context.n_ctx),
            repeat=repeat,
            presence=presence,
            frequency=frequency,
            spared=None if options["penalize_nl"] else _newline(context),
        )

    def apply(self, candidates: Candidates) -> None:
        self.kernel.apply(candidates)

    def accept(self, token: int) -> None:
        if len(self._window) == self._n_window:
            self._remove(self._window.popleft())
        self._window.append(token)
        if token == self._spared:
            return
        i = self._at.setdefault(token, len(self._at))
        if i == len(self._at) - 1 and self.kernel.options[3] == i:
            self._tokens[i] = token, 0
            self.kernel.options[3] = i + 1
        self._tokens[i, 1] += 1

    def _remove(self, token: int) -> None:
        if token == self._spared:
            return
        i = self._at[token]
        self._tokens[i, 1] -= 1
        if self._tokens[i, 1]:
            return
        last = len(self._at) - 1  # the last one takes its place
        self._tokens[i] = self._tokens[last]
        self._at[int(self._tokens[i, 0])] = i
        del self._at[token]
        self.kernel.options[3] = last


def _newline(context: SamplerContext) -> int | None:
    """Return the token of a newline, if there is one."""
    tokens = context.tokenizer.encode("\n", parse_special=False)
    return tokens[-1] if tokens and context.tokenizer.piece(tokens[-1]) == b"\n" else None
