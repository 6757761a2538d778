"""Computes a reranker's score from the hidden states of a text.

In GGUF files ``cls.weight`` and ``cls.bias`` are a dense layer that is followed by tanh; ``cls.output.weight`` and
``cls.output.bias`` compute scores from its result. A model has one of the two layers or both. If there are several
scores, the first one is used, as in llama.cpp. In causal models the state of the last token is used, because only it
depends on the whole text; in encoders that of the first one.

Two architectures differ: ``modern-bert`` takes the mean of the states, has GELU instead of tanh, and a norm after it,
``cls.norm``; ``qwen3`` has the scores of "yes" and "no", and their softmax is the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import erf, exp
from typing import Literal

import numpy as np

from llamafw.engine.dense_layers import DenseLayer, Doubles, read_layer, read_numbers
from llamafw.errors import ModelError
from llamafw.graph import Graph
from llamafw.interfaces import Quant
from llamafw.types import Floats, Model

WITH_SOFTMAX = ("qwen3", "qwen3vl")


@dataclass(frozen=True, slots=True)
class RankHead:
    """The layers of a rank head, of which one may be missing."""

    dense: DenseLayer | None
    output: DenseLayer | None
    state: Literal["first", "last", "mean"] = "last"  # which hidden state is scored
    function: Callable[[Doubles], Doubles] = np.tanh  # after ``dense``
    norm: tuple[Doubles, float] | None = None  # after the function: weights of a LayerNorm, and its epsilon
    has_softmax: bool = False  # the score is the first one's share

    def score(self, hidden: Floats) -> float:
        """Return the score of a hidden state, ``(n_embd,)`` float32."""
        values = hidden.astype(np.float64)
        if self.dense:
            values = self.function(self.dense(values))
        if self.norm:
            weight, eps = self.norm
            values = values - values.mean()
            values = values / np.sqrt((values**2).mean() + eps) * weight
        scores = self.output(values) if self.output else values
        if self.has_softmax:
            return 1 / float(sum(exp(min(other - scores[0], 700.0)) for other in scores))
        return float(scores[0])


def gelu(x: Doubles) -> Doubles:
    """Return ``x · Φ(x)`` with the distribution function of the normal distribution (arXiv:1606.08415)."""
    cdf: Doubles = 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))
    return x * cdf


def read_rank_head(model: Model, quants: Mapping[str, Quant], graph: Graph) -> RankHead | None:
    """Return the rank head of a model, or None if it has none.

    Raises
    ------
    ModelError
        The shapes of its tensors do not fit together.
    """
    dense = read_layer("cls", model, quants, graph.n_embd)
    n_inner = len(dense.bias) if dense else graph.n_embd
    output = read_layer("cls.output", model, quants, n_inner)
    if not dense and not output:
        return None

    architecture = model.metadata.get("general.architecture")
    if architecture == "modern-bert":
        return RankHead(dense, output, "mean", gelu, _read_norm(model, quants, n_inner))
    has_softmax = architecture in WITH_SOFTMAX and output is not None and len(output.bias) > 1
    return RankHead(dense, output, "last" if graph.causal else "first", has_softmax=has_softmax)


def _read_norm(model: Model, quants: Mapping[str, Quant], n: int) -> tuple[Doubles, float] | None:
    """Return the weights of the norm and its epsilon, which is that of all norms."""
    if "cls.norm.weight" not in model.tensors:
        return None
    weight = read_numbers("cls.norm.weight", model, quants)
    if weight.shape != (n,):
        raise ModelError(f"{model.path}: cls.norm.weight has shape {weight.shape} instead of {(n,)}")
    return weight, float(model.metadata["modern-bert.attention.layer_norm_epsilon"])
