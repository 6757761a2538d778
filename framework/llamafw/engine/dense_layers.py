"""Reads the linear layers of a model file that follow the pooling of embeddings, or belong to a rank head.

In GGUF files ``dense_2`` and ``dense_3`` are applied to embeddings one after the other, without an activation function,
as sentence-transformers does it for EmbeddingGemma.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llamafw.errors import ModelError
from llamafw.interfaces import Quant
from llamafw.types import Floats, Model

Doubles = npt.NDArray[np.float64]

DENSE_LAYERS = ("dense_2", "dense_3")


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """A linear layer."""

    weight: Doubles  # (n_out, n_in)
    bias: Doubles  # (n_out,)

    def __call__(self, values: Doubles) -> Doubles:
        """Return the layer's output, ``(…, n_out)``, for ``values``, ``(…, n_in)``."""
        return values @ self.weight.T + self.bias


def apply_layers(layers: Sequence[DenseLayer], vectors: Floats) -> Floats:
    """Return embeddings, ``(n, n_out)`` float32, after some layers."""
    if not layers:
        return vectors
    values: Doubles = vectors.astype(np.float64)
    for layer in layers:
        values = layer(values)
    return values.astype(np.float32)


def read_dense_layers(model: Model, quants: Mapping[str, Quant], n_embd: int) -> tuple[DenseLayer, ...]:
    """Return the layers that are applied to embeddings, in order; most models have none.

    Raises
    ------
    ModelError
        The shapes of the tensors do not fit together.
    """
    layers: list[DenseLayer] = []
    for name in DENSE_LAYERS:
        layer = read_layer(name, model, quants, len(layers[-1].bias) if layers else n_embd)
        layers += [layer] if layer else []
    return tuple(layers)


def read_layer(name: str, model: Model, quants: Mapping[str, Quant], n_in: int) -> DenseLayer | None:
    """Return a layer with ``n_in`` inputs; None if the file has none of this name."""
    if f"{name}.weight" not in model.tensors:
        return None
    weight = read_numbers(f"{name}.weight", model, quants)
    weight = weight.reshape(-1, weight.shape[-1])  # a single score may be stored as a vector
    if weight.shape[1] != n_in:
        raise ModelError(f"{model.path}: {name}.weight has {weight.shape[1]} inputs instead of {n_in}")
    n_out = len(weight)
    bias = read_numbers(f"{name}.bias", model, quants) if f"{name}.bias" in model.tensors else np.zeros(n_out)
    if bias.shape != (n_out,):
        raise ModelError(f"{model.path}: {name}.bias has shape {bias.shape}, but {name}.weight has {n_out} rows")
    return DenseLayer(weight, bias)


def read_numbers(name: str, model: Model, quants: Mapping[str, Quant]) -> Doubles:
    """Return the numbers of a tensor."""
    tensor = model.tensors[name]
    return quants[tensor.type_name].dequantize(tensor.data, tensor.shape).astype(np.float64)
