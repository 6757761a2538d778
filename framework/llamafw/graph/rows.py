"""Operators that compute each token's row independently: embeddings, products, norms, elementwise functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import erf
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llamafw.errors import suggest
from llamafw.graph.values import Array, GraphError, Shape, Value, size_of
from llamafw.graph.weights import Weight, describe_row, input_error

if TYPE_CHECKING:
    from llamafw.graph.evaluate import Evaluation

Function = Literal[
    "silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu_squared", "elu", "sigmoid", "tanh", "softplus", "exp"
]
"""What an `Activation` computes of each number."""


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingLookup(Value):
    """The row ``ids`` of a matrix. ggml: get_rows; ONNX: Gather."""

    ids: Value
    weight: Weight

    def infer_shape(self) -> Shape:
        """Return the shape of one row of the matrix."""
        if len(self.weight.shape) != 2 or self.ids.shape != ():
            raise GraphError(
                f"the tensor {self.weight.name!r} has shape {self.weight.shape}; it is not a matrix of embeddings"
            )
        return self.weight.shape[1:]

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the rows of the matrix."""
        return run.weight(self.weight)[inputs["ids"]]


@dataclass(frozen=True, slots=True, eq=False)
class Linear(Value):
    """``W x + b``.

    A weight with three dimensions has one matrix per head. ggml: mul_mat; ONNX: MatMul, MatMulNBits.
    """

    x: Value
    weight: Weight  # (n_out, n_in), or (n_head, n_out, n_in)
    bias: Weight | None = None
    scale: Weight | None = None  # one factor for the product

    def infer_shape(self) -> Shape:
        """Return the shape of the product."""
        if len(self.weight.shape) not in (2, 3):
            raise GraphError(f"the tensor {self.weight.name!r} has shape {self.weight.shape}; it is not a matrix")
        *heads, n_out, n_in = self.weight.shape
        if not self.x.shape or self.x.shape[-1] != n_in or (heads and self.x.shape[:-1] != tuple(heads)):
            raise input_error(self.weight, self.x)
        if self.bias is not None and self.bias.shape != (*heads, n_out):
            shapes = f"{self.bias.shape}, but {self.weight.name!r} has {self.weight.shape}"
            raise GraphError(f"the tensor {self.bias.name!r} has shape {shapes}")
        if self.scale is not None and self.scale.shape not in ((), (1,)):
            raise GraphError(f"the tensor {self.scale.name!r} has shape {self.scale.shape} instead of (1,)")
        return (*self.x.shape[:-1], n_out)

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the products."""
        matrix = run.weight(self.weight)
        product = np.einsum("nhi,hoi->nho", inputs["x"], matrix) if matrix.ndim == 3 else inputs["x"] @ matrix.T
        if self.scale is not None:
            product = product * run.weight(self.scale).reshape(())
        return product if self.bias is None else product + run.weight(self.bias)


@dataclass(frozen=True, slots=True, eq=False)
class RMSNorm(Value):
    """``x / sqrt(mean(x²) + eps) · w`` over the last axis (arXiv:1910.07467).

    The axis is divided into ``groups`` parts, each with its own mean. ONNX: RMSNormalization.
    """

    x: Value
    weight: Weight | None
    eps: float
    groups: int = 1

    def infer_shape(self) -> Shape:
        """Return the input's shape."""
        _check_norm(self.x, self.weight)
        if self.x.shape[-1] % self.groups:
            raise GraphError(f"{self.x.shape[-1]} numbers cannot be divided into {self.groups} groups")
        return self.x.shape

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the normalised rows."""
        x = inputs["x"]
        parts = x.reshape(*x.shape[:-1], self.groups, -1)
        normed = (parts / np.sqrt((parts**2).mean(-1, keepdims=True) + self.eps)).reshape(x.shape)
        return normed if self.weight is None else normed * run.weight(self.weight)


@dataclass(frozen=True, slots=True, eq=False)
class LayerNorm(Value):
    """``(x − mean) / sqrt(variance + eps) · w + b`` over the last axis (arXiv:1607.06450).

    ONNX: LayerNormalization.
    """

    x: Value
    weight: Weight | None
    bias: Weight | None
    eps: float

    def infer_shape(self) -> Shape:
        """Return the input's shape."""
        _check_norm(self.x, self.weight)
        _check_norm(self.x, self.bias)
        return self.x.shape

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the normalised rows."""
        centred = inputs["x"] - inputs["x"].mean(-1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.eps)
        if self.weight is not None:
            normed = normed * run.weight(self.weight)
        return normed if self.bias is None else normed + run.weight(self.bias)


@dataclass(frozen=True, slots=True, eq=False)
class L2Norm(Value):
    """``x / sqrt(sum(x²) + eps)`` over the last axis. ggml: l2_norm; ONNX: LpNormalization."""

    x: Value
    eps: float

    def infer_shape(self) -> Shape:
        """Return the input's shape."""
        return self.x.shape

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the normalised rows."""
        return inputs["x"] / np.sqrt((inputs["x"] ** 2).sum(-1, keepdims=True) + self.eps)


@dataclass(frozen=True, slots=True, eq=False)
class Add(Value):
    """``a + b``."""

    a: Value
    b: Value

    def infer_shape(self) -> Shape:
        """Return the common shape."""
        if self.a.shape != self.b.shape:
            raise GraphError(f"rows of shapes {describe_row(self.a)} and {describe_row(self.b)} cannot be added")
        return self.a.shape

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the sums."""
        return inputs["a"] + inputs["b"]


@dataclass(frozen=True, slots=True, eq=False)
class Mul(Value):
    """``a · b``, elementwise.

    ``b`` may be a single number, or have one number per row of the last axis.
    """

    a: Value
    b: Value

    def infer_shape(self) -> Shape:
        """Return the shape of ``a``."""
        if self.b.shape not in (self.a.shape, (*self.a.shape[:-1], 1)) and size_of(self.b) != 1:
            raise GraphError(f"rows of shapes {describe_row(self.a)} and {describe_row(self.b)} cannot be multiplied")
        return self.a.shape

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the products."""
        a, b = inputs["a"], inputs["b"]
        return a * (b.reshape(len(b), *[1] * (a.ndim - 1)) if size_of(self.b) == 1 else b)


@dataclass(frozen=True, slots=True, eq=False)
class Scale(Value):
    """``x · factor``."""

    x: Value
    factor: float

    def infer_shape(self) -> Shape:
        """Return the input's shape."""
        return self.x.shape

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the products."""
        return inputs["x"] * self.factor


@dataclass(frozen=True, slots=True, eq=False)
class WeightMul(Value):
    """``x · w``, elementwise, where ``w`` is a vector of the file, a single number, or one number per head."""

    x: Value
    weight: Weight

    def infer_shape(self) -> Shape:
        """Return the input's shape."""
        if self.weight.shape not in ((1,), (), self.x.shape, self.x.shape[-1:], (*self.x.shape[:-1], 1)):
            raise input_error(self.weight, self.x)
        return self.x.shape

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the products."""
        return inputs["x"] * run.weight(self.weight)


@dataclass(frozen=True, slots=True, eq=False)
class WeightAdd(Value):
    """``x + w``, elementwise, where ``w`` is a vector of the file."""

    x: Value
    weight: Weight

    def infer_shape(self) -> Shape:
        """Return the input's shape."""
        _check_norm(self.x, self.weight)
        return self.x.shape

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the sums."""
        return inputs["x"] + run.weight(self.weight)


@dataclass(frozen=True, slots=True, eq=False)
class Clamp(Value):
    """``x`` limited to ``low`` … ``high``.

    ONNX: Clip.
    """

    x: Value
    low: float
    high: float

    def infer_shape(self) -> Shape:
        """Return the input's shape."""
        if not self.low <= self.high:
            raise GraphError(f"the lower limit {self.low} is above the upper limit {self.high}")
        return self.x.shape

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the limited rows."""
        return np.clip(inputs["x"], self.low, self.high)


@dataclass(frozen=True, slots=True, eq=False)
class Activation(Value):
    """An activation function applied to each number; `FUNCTIONS` has the formulas."""

    x: Value
    function: Function

    def infer_shape(self) -> Shape:
        """Return the input's shape."""
        if self.function not in FUNCTIONS:
            raise GraphError(f"the activation function {self.function!r} is unknown{suggest(self.function, FUNCTIONS)}")
        return self.x.shape

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the function's values."""
        return FUNCTIONS[self.function](inputs["x"])


@dataclass(frozen=True, slots=True, eq=False)
class Softmax(Value):
    """``exp(x) / sum(exp(x))`` over the last axis.

    ONNX: Softmax.
    """

    x: Value

    def infer_shape(self) -> Shape:
        """Return the input's shape."""
        return self.x.shape

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the probabilities."""
        return softmax_rows(inputs["x"])


@dataclass(frozen=True, slots=True, eq=False)
class Normalise(Value):
    """``x / max(sum(x), low)`` over the last axis."""

    x: Value
    low: float = 0.0

    def infer_shape(self) -> Shape:
        """Return the input's shape."""
        return self.x.shape

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the shares."""
        return inputs["x"] / np.maximum(inputs["x"].sum(-1, keepdims=True), self.low)


@dataclass(frozen=True, slots=True, eq=False)
class LayerOutput(Value):
    """``x`` unchanged.

    Marks the end of a layer, where control vectors are added and draft models read.
    """

    x: Value
    layer: int

    def infer_shape(self) -> Shape:
        """Return the input's shape."""
        return self.x.shape

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the rows unchanged."""
        array: Array = inputs["x"]
        return array


def softmax_rows(x: Array) -> Array:
    """Return the softmax over the last axis; entries of −inf become 0."""
    weights = np.exp(x - x.max(-1, keepdims=True))
    result: Array = weights / weights.sum(-1, keepdims=True)
    return result


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(x / 2))


FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "silu": lambda x: x * _sigmoid(x),  # arXiv:1702.03118
    "gelu": lambda x: x * (1 + np.vectorize(erf)(x / 2**0.5)) / 2,  # arXiv:1606.08415
    "gelu_tanh": lambda x: x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2,  # the same paper
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),  # the same paper
    "relu": lambda x: np.maximum(x, 0),
    "relu_squared": lambda x: np.maximum(x, 0) ** 2,  # arXiv:2109.08668
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),  # arXiv:1511.07289
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "softplus": lambda x: np.logaddexp(x, 0),
    "exp": np.exp,
}
"""Functions of numpy arrays, by name."""


def _check_norm(x: Value, weight: Weight | None) -> None:
    if weight is not None and weight.shape not in (x.shape[-1:], x.shape):
        raise input_error(weight, x)
