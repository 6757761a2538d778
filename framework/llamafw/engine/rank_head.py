"""Rank heads: what turns the hidden state of a text's last token into a score. They know nothing of texts.

In GGUF files: ``cls.weight`` and ``cls.bias`` are a dense layer with tanh behind it, ``cls.output.weight`` and
``cls.output.bias`` what makes scores of its result. A model has one of the two, or both. The first score counts. So
has llama.cpp it, where encoders take the first token's state; a decoder's first token has seen nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llamafw.errors import ModelError
from llamafw.interfaces import Quant
from llamafw.types import Floats, Model

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Layer:
    """A matrix and what is added to its product."""

    weight: Doubles  # (n_out, n_in)
    bias: Doubles  # (n_out,)

    def __call__(self, values: Doubles) -> Doubles:
        """Return ``(n_out,)`` for ``(n_in,)``."""
        return self.weight @ values + self.bias


@dataclass(frozen=True, slots=True)
class RankHead:
    """The layers that there are."""

    dense: Layer | None
    output: Layer | None

    def score(self, hidden: Floats) -> float:
        """Return the score of a hidden state, ``(n_embd,)``."""
        values = hidden.astype(np.float64)
        if self.dense:
            values = np.tanh(self.dense(values))
        return float((self.output(values) if self.output else values)[0])


def rank_head(model: Model, quants: Mapping[str, Quant], n_embd: int) -> RankHead | None:
    """Return the rank head of a model; None if it has none.

    Raises
    ------
    ModelError
        Its tensors do not fit each other, or the model.
    """
    dense = _layer("cls", model, quants, n_embd)
    output = _layer("cls.output", model, quants, len(dense.bias) if dense else n_embd)
    return RankHead(dense, output) if dense or output else None


def _layer(name: str, model: Model, quants: Mapping[str, Quant], n_in: int) -> Layer | None:
    if f"{name}.weight" not in model.tensors:
        return None
    weight = _values(f"{name}.weight", model, quants)
    weight = weight.reshape(-1, weight.shape[-1])  # one score: the file may have a vector
    if weight.shape[1] != n_in:
        raise ModelError(f"{model.path}: {name}.weight takes {weight.shape[1]} numbers, and gets {n_in}")
    n_out = len(weight)
    bias = _values(f"{name}.bias", model, quants) if f"{name}.bias" in model.tensors else np.zeros(n_out)
    if bias.shape != (n_out,):
        raise ModelError(f"{model.path}: {name}.bias has the shape {bias.shape}, and {name}.weight {n_out} rows")
    return Layer(weight, bias)


def _values(name: str, model: Model, quants: Mapping[str, Quant]) -> Doubles:
    tensor = model.tensors[name]
    return quants[tensor.type_name].dequantize(tensor.data, tensor.shape).astype(np.float64)
