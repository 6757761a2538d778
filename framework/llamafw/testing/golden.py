"""Known answers of a server with the tiny model and `DeterministicBackend`, token by token.

An installed plugin that is not used must not change them. They follow from the definition of the backend, the formulas
of the samplers and numpy's random numbers; llamafw's own tests compute them from these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class GoldenAnswer:
    """The body of a ``POST /completion`` request and the tokens of its answer."""

    body: Mapping[str, Any]
    tokens: tuple[int, ...]


PROMPT = [75, 108, 259, 75, 108, 260, 13]

GOLDEN = (
    GoldenAnswer(
        {"prompt": PROMPT, "temperature": 0, "n_predict": 12, "ignore_eos": True},
        (5, 119, 170, 198, 50, 78, 174, 231, 72, 113, 239, 56),
    ),
    GoldenAnswer(
        {"prompt": PROMPT, "seed": 7, "samplers": [], "n_predict": 12, "ignore_eos": True},
        (209, 269, 226, 57, 94, 253, 4, 258, 254, 144, 86, 82),
    ),
    GoldenAnswer(
        {
            "prompt": PROMPT,
            "seed": 7,
            "samplers": ["top_k", "temperature"],
            "top_k": 5,
            "temperature": 0.7,
            "n_predict": 12,
            "ignore_eos": True,
        },
        (232, 222, 255, 251, 145, 68, 72, 142, 94, 156, 144, 162),
    ),
)
