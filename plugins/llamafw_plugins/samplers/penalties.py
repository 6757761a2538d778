"""Make recent tokens less likely."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from llamafw import Candidates, JsonSchema, RequestError, Sampler, SamplerContext, SamplerKernel


class Penalties:
    """Penalises the tokens among the last ``repeat_last_n`` of prompt and response.

    First ``logit / repeat_penalty``, or ``logit · repeat_penalty`` if the logit is negative (Keskar et al.: CTRL, 2019,
    §4.1); then ``logit -= count · frequency_penalty + presence_penalty``, as in the OpenAI API.

    Parameters
    ----------
    prompt : sequence of int
        The request's tokens.
    n_vocab : int
        Size of the vocabulary.
    window : int
        Number of last tokens that count, at least 1.
    repeat, presence, frequency : float
        The three penalties.
    exempt : int, optional
        A token that is never penalised.
    """

    options: ClassVar[JsonSchema] = {
        "repeat_penalty": {
            "type": "number",
            "default": 1.0,
            "minimum": 0.01,
            "maximum": 100,
            "description": "Divides the logits of recent tokens; 1: off.",
        },
        "repeat_last_n": {
            "type": "integer",
            "default": 64,
            "minimum": -1,
            "maximum": 2**31 - 1,
            "description": "Number of last tokens that the penalties apply to; 0: none, -1: the whole context.",
        },
        "presence_penalty": {
            "type": "number",
            "default": 0.0,
            "minimum": -1000,
            "maximum": 1000,
            "description": "Subtracted once from the logits of recent tokens; 0: off.",
        },
        "frequency_penalty": {
            "type": "number",
            "default": 0.0,
            "minimum": -1000,
            "maximum": 1000,
            "description": "Subtracted from the logits of recent tokens, once per occurrence; 0: off.",
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
        exempt: int | None = None,
    ) -> None:
        from llamafw_plugins.samplers import kernels  # here, because it imports numba

        self._window, self._max_window, self._exempt = deque[int](), window, exempt
        options = np.empty(4 + 2 * min(window, n_vocab))  # pages use memory only once they are written
        options[:4] = repeat, presence, frequency, 0
        self._tokens = options[4:].reshape(-1, 2)  # rows [:n]: a distinct token of the window, its count
        self._index_of: dict[int, int] = {}  # token → its row in _tokens
        self.kernel = SamplerKernel(kernels.penalties, options)
        for token in prompt[-window:]:
            self.accept(token)

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        """Return a sampler for one request, or None if no penalty applies.

        Raises
        ------
        RequestError
            ``repeat_penalty`` is not positive.
        """
        window, repeat = int(options["repeat_last_n"]), float(options["repeat_penalty"])
        presence, frequency = float(options["presence_penalty"]), float(options["frequency_penalty"])
        if not repeat > 0:
            raise RequestError(f"repeat_penalty must be above 0; it is {repeat:g}", param="repeat_penalty")
        if window == 0 or (repeat == 1 and not presence and not frequency):
            return None

        return cls(
            context.prompt,
            context.n_vocab,
            window=context.n_ctx if window < 0 else min(window, context.n_ctx),
            repeat=repeat,
            presence=presence,
            frequency=frequency,
            exempt=None if options["penalize_nl"] else _newline(context),
        )

    def apply(self, candidates: Candidates) -> None:
        """Run the kernel."""
        self.kernel.apply(candidates)

    def accept(self, token: int) -> None:
        """Add a token to the window, and remove the oldest one from a full window."""
        if len(self._window) == self._max_window:
            self._remove(self._window.popleft())
        self._window.append(token)
        if token == self._exempt:
            return

        i = self._index_of.setdefault(token, len(self._index_of))
        if i == len(self._index_of) - 1 and self.kernel.options[3] == i:
            self._tokens[i] = token, 0
            self.kernel.options[3] = i + 1
        self._tokens[i, 1] += 1

    def _remove(self, token: int) -> None:
        if token == self._exempt:
            return
        i = self._index_of[token]
        self._tokens[i, 1] -= 1
        if self._tokens[i, 1]:
            return

        last = len(self._index_of) - 1  # the last row moves to the free one
        self._tokens[i] = self._tokens[last]
        self._index_of[int(self._tokens[i, 0])] = i
        del self._index_of[token]
        self.kernel.options[3] = last


def _newline(context: SamplerContext) -> int | None:
    """Return the token of a newline, if there is one."""
    tokens = context.tokenizer.encode("\n", parse_special=False)
    return tokens[-1] if tokens and context.tokenizer.piece(tokens[-1]) == b"\n" else None
