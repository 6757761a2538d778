"""Computes a reranker's score from the hidden state of a text's last token.

In GGUF files ``cls.weight`` and ``cls.bias`` are a dense layer that is followed by tanh; ``cls.output.weight`` and
``cls.output.bias`` compute scores from its result. A model has one of the two layers or both. If there are several
scores, the first one is used, as in llama.cpp. The state of the last token is used because only it depends on the whole
text; in encoders every state does, and the first one is used.
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
class DenseLayer:
    """A linear layer."""

    weight: Doubles  # (n_out, n_in)
    bias: Doubles  # (n_out,)

    def __call__(self, values: Doubles) -> Doubles:
        """Return the layer's output, ``(n_out,)``, for ``values``, ``(n_in,)``."""
        return self.weight @ values + self.bias


@dataclass(frozen=True, slots=True)
class RankHead:
    """The layers of a rank head, of which one may be missing."""

    dense: DenseLayer | None
    output: DenseLayer | None

    def score(self, hidden: Floats) -> float:
        """Return the score of a hidden state, ``(n_embd,)`` float32."""
        values = hidden.astype(np.float64)
        if self.dense:
            values = np.tanh(self.dense(values))
        return float((self.output(values) if self.output else values)[0])


def read_rank_head(model: Model, quants: Mapping[str, Quant], n_embd: int) -> RankHead | None:
    """Return the rank head of a model, or None if it has none.

    Raises
    ------
    ModelError
        The shapes of its tensors do not fit together.
    """
    dense = _layer("cls", model, quants, n_embd)
    output = _layer("cls.output", model, quants, len(dense.bias) if dense else n_embd)
    return RankHead(dense, output) if dense or output else None


def _layer(name: str, model: Model, quants: Mapping[str, Quant], n_in: int) -> DenseLayer | None:
    if f"{name}.weight" not in model.tensors:
        return None
    weight = _values(f"{name}.weight", model, quants)
    weight = weight.reshape(-1, weight.shape[-1])  # a single score may be stored as a vector
    if weight.shape[1] != n_in:
        raise ModelError(f"{model.path}: {name}.weight has {weight.shape[1]} inputs instead of {n_in}")
    n_out = len(weight)
    bias = _values(f"{name}.bias", model, quants) if f"{name}.bias" in model.tensors else np.zeros(n_out)
    if bias.shape != (n_out,):
        raise ModelError(f"{model.path}: {name}.bias has shape {bias.shape}, but {name}.weight has {n_out} rows")
    return DenseLayer(weight, bias)


def _values(name: str, model: Model, quants: Mapping[str, Quant]) -> Doubles:
    tensor = model.tensors[name]
    return quants[tensor.type_name].dequantize(tensor.data, tensor.shape).astype(np.float64)
