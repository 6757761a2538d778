"""Reads the weights of a model file for ONNX models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw import Bytes, Floats, Model, Quant
from llamafw import graph as g


@dataclass(frozen=True, slots=True)
class Tensors:
    """The tensors of a model file.

    Attributes
    ----------
    model : Model
        The open model file.
    quants : mapping of str to Quant
        All tensor types, by name.
    """

    model: Model
    quants: Mapping[str, Quant]

    def quant(self, weight: g.Weight) -> Quant:
        """Return the type of a weight."""
        return self.quants[self.model.tensors[weight.name].type_name]

    def blocks(self, weight: g.Weight) -> Bytes:
        """Return the bytes of the weight's rows, ``(n_rows, n_bytes)``, as they are in the file."""
        tensor = self.model.tensors[weight.name]
        if weight.last is None:
            return tensor.data.reshape(math.prod(weight.shape[:-1]), -1)
        rows = tensor.data.reshape(tensor.shape[0], -1)[weight.first : weight.last]
        return rows.reshape(math.prod(weight.shape[:-1]), -1)

    def floats(self, weight: g.Weight) -> Floats:
        """Return the exact numbers of a weight, float32 of its shape."""
        return self._dequantize(weight, self.blocks(weight), weight.shape)

    def rows(self, weight: g.Weight, indices: npt.NDArray[np.integer[Any]]) -> Floats:
        """Return some rows of a matrix, ``(n, n_columns)`` float32."""
        return self._dequantize(weight, self.blocks(weight)[indices], (len(indices), weight.shape[-1]))

    def _dequantize(self, weight: g.Weight, blocks: Bytes, shape: tuple[int, ...]) -> Floats:
        with np.errstate(all="ignore"):  # a scale may be infinite
            return self.quant(weight).dequantize(np.ascontiguousarray(blocks).reshape(-1), shape)
