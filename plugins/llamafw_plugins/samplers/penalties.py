"""Make tokens that occurred lately less likely."""
from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from llamafw import Candidates, Ints, JsonSchema, RequestError, Sampler, SamplerContext


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
        *,
        window: int,
        repeat: float = 1.0,
        presence: float = 0.0,
        frequency: float = 0.0,
        spared: int | None = None,
    ) -> None:
        self._repeat, self._presence, self._frequency, self._spared = repeat, presence, frequency, spared
        self._window, self._n_window = deque[int](), window
        self._ids: Ints = np.empty(64, np.int32)  # [:n] the distinct tokens of the window
        self._counts: Ints = np.empty(64, np.int32)
        self._at: dict[int, int] = {}  # token → its index in both
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
            window=context.n_ctx if window < 0 else min(window, context.n_ctx),
            repeat=repeat,
            presence=presence,
            frequency=frequency,
            spared=None if options["penalize_nl"] else _newline(context),
        )

    def apply(self, candidates: Candidates) -> None:
        n = len(self._at)
        if not n:
            return
        where, which = candidates.find(self._ids[:n])
        logits, counts = candidates.logits[where], self._counts[which]
        logits = np.where(logits > 0, logits / self._repeat, logits * self._repeat)
        candidates.logits[where] = logits - (counts * self._frequency + self._presence)
        candidates.sorted = False

    def accept(self, token: int) -> None:
        if len(self._window) == self._n_window:
            self._remove(self._window.popleft())
        self._window.append(token)
        if token == self._spared:
            return
        i = self._at.get(token)
        if i is not None:
            self._counts[i] += 1
            return
        i = self._at[token] = len(self._at)
        if i == len(self._ids):
            self._ids, self._counts = np.resize(self._ids, 2 * i), np.resize(self._counts, 2 * i)
        self._ids[i], self._counts[i] = token, 1

    def _remove(self, token: int) -> None:
        if token == self._spared:
            return
        i = self._at[token]
        self._counts[i] -= 1
        if self._counts[i]:
            return
        last = len(self._at) - 1  # the last one takes its place
        moved = int(self._ids[last])
        self._ids[i], self._counts[i] = moved, self._counts[last]
        self._at[moved] = i
        del self._at[token]


def _newline(context: SamplerContext) -> int | None:
    """Return the token of a newline, if there is one."""
    tokens = context.tokenizer.encode("\n", parse_special=False)
    return tokens[-1] if tokens and context.tokenizer.piece(tokens[-1]) == b"\n" else None
