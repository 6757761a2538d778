"""Lowers operators that compute each row independently: products, norms, elementwise functions, shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from llamafw import graph as g
from llamafw_backends.onnx.lowering import Lowering, lowers, weight_name
from llamafw_backends.onnx.matrices import add_product, are_alike, describe_product
from llamafw_backends.onnx.probes import adds_and_normalises


@lowers(g.Input)
def lower_input(value: g.Input, low: Lowering) -> str:
    """Declare an input of the model: tokens, positions or types, ``(n_tokens,)`` int64."""
    return low.builder.input(value.name, np.int64, ["n_tokens"])


@lowers(g.TokenScales)
def lower_token_scales(value: g.TokenScales, low: Lowering) -> str:
    """Declare an input of the model: the scales of each token, ``(n_tokens, n)``."""
    return low.builder.input("scales", low.builder.float_type, ["n_tokens", value.n])


@lowers(g.HiddenRows)
def lower_hidden_rows(value: g.HiddenRows, low: Lowering) -> str:
    """Declare an input of the model: the hidden state before each token, ``(n_tokens, n)``."""
    return low.builder.input("hidden_rows", low.builder.float_type, ["n_tokens", value.n])


@lowers(g.EmbeddingLookup)
def lower_embedding(value: g.EmbeddingLookup, low: Lowering) -> str:
    """Declare an input: the rows are looked up in the file before each run, so the matrix needs no memory."""
    b = low.builder
    if not isinstance(value.ids, g.Input):
        return str(b.node("Gather", low.small_weight(value.weight), low.of(value.ids), axis=0))
    name = f"embedding.{len(low.lookups)}"
    low.lookups[name] = value
    name = b.input(name, np.float32, ["n_tokens", *value.shape])
    return name if b.float_type == np.float32 else str(b.node("Cast", name, to=_onnx_float(low)))


@lowers(g.Linear)
def lower_linear(value: g.Linear, low: Lowering) -> str:
    """Lower a product with a matrix, or with one matrix per head.

    Products of the same rows with matrices of one type are one node.
    """
    if len(value.weight.shape) == 3:
        low.chosen[value] = "MatMul with one matrix per head"
        return _with_bias(value, _product_per_head(value, low), low)

    b, group = low.builder, _products(value, low)
    y = add_product(low, low.of(value.x), *[one.weight for one in group])
    low.chosen[value] = describe_product(low, value.weight)
    if len(group) == 1:
        return _with_bias(value, y, low)
    sizes = [one.shape[0] for one in group]
    parts = b.node("Split", y, b.ints(*sizes), n_outputs=len(group), axis=-1)
    for one, part in zip(group, parts, strict=True):
        low.set(one, _with_bias(one, part, low))
        low.chosen.setdefault(one, "part of the product before")
    return low.of(value)


def _products(value: g.Linear, low: Lowering) -> list[g.Linear]:
    """Return a product with the others that can be computed together with it."""
    group = [value]
    for other in low.readers[value.x]:
        if not isinstance(other, g.Linear) or other is value or low.is_lowered(other):
            continue
        is_alike = len(other.weight.shape) == 2 and are_alike(low, value.weight, other.weight)
        if is_alike and low.is_together(value, other):
            group.append(other)
    return group


def _with_bias(value: g.Linear, y: str, low: Lowering) -> str:
    if value.scale is not None:
        y = low.builder.node("Mul", y, low.small_weight(value.scale))
    return y if value.bias is None else str(low.builder.node("Add", y, low.small_weight(value.bias)))


def _product_per_head(value: g.Linear, low: Lowering) -> str:
    b, name = low.builder, weight_name(value.weight, "transposed")
    matrices = low.tensors.floats(value.weight).transpose(0, 2, 1)
    b.weight(name, np.ascontiguousarray(matrices, low.builder.float_type))
    by_head = b.node("Transpose", low.of(value.x), perm=[1, 0, 2])
    return str(b.node("Transpose", b.node("MatMul", by_head, name), perm=[1, 0, 2]))


@lowers(g.RMSNorm)
def lower_rms_norm(value: g.RMSNorm, low: Lowering) -> str:
    """Lower a norm to SimplifiedLayerNormalization, whose kernel every provider has."""
    b, x, size = low.builder, low.of(value.x), value.x.shape[-1] // value.groups
    whole_row = value.weight is None or value.weight.shape == value.x.shape[-1:]
    if value.groups > 1:
        x = low.reshape(x, *value.shape[:-1], value.groups, size)
    plain = value.groups > 1 or not whole_row or value.weight is None
    ones = b.floats(np.ones(size)) if plain else low.small_weight(value.weight)  # type: ignore[arg-type]  # the weight is not None
    y = b.node("SimplifiedLayerNormalization", x, ones, axis=-1, epsilon=value.eps, stash_type=1)
    if value.groups > 1:
        y = low.reshape(y, *value.shape)
    return y if not plain or value.weight is None else str(b.node("Mul", y, low.small_weight(value.weight)))


@lowers(g.LayerNorm)
def lower_layer_norm(value: g.LayerNorm, low: Lowering) -> str:
    """Lower a norm to LayerNormalization."""
    b, size = low.builder, value.x.shape[-1:]
    whole_row = value.weight is not None and value.weight.shape == size
    scale = low.small_weight(value.weight) if whole_row else b.floats(np.ones(size))  # type: ignore[arg-type]  # the weight is not None
    with_bias = whole_row and value.bias is not None and value.bias.shape == size
    bias = [low.small_weight(value.bias)] if with_bias else []  # type: ignore[arg-type]  # the weight is not None
    y = b.node("LayerNormalization", low.of(value.x), scale, *bias, axis=-1, epsilon=value.eps)
    if value.weight is not None and not whole_row:
        y = b.node("Mul", y, low.small_weight(value.weight))
    return y if value.bias is None or with_bias else str(b.node("Add", y, low.small_weight(value.bias)))


@lowers(g.L2Norm)
def lower_l2_norm(value: g.L2Norm, low: Lowering) -> str:
    """Lower to a division by the root of the sum of squares."""
    b, x = low.builder, low.of(value.x)
    total = b.node("ReduceSumSquare", x, b.ints(-1), keepdims=1)
    return str(b.node("Div", x, b.node("Sqrt", b.node("Add", total, b.floats(value.eps)))))


@lowers(g.Add)
def lower_add(value: g.Add, low: Lowering) -> str:
    """Lower a sum, together with the norm of it if there is one."""
    b, norm = low.builder, _norm_of(value, low)
    if norm is None or not adds_and_normalises(low.support):
        return str(b.node("Add", low.of(value.a), low.of(value.b)))
    name = f"{b.scope}/SkipNorm/{len(b.nodes)}"
    b.node(
        "com.microsoft.SkipSimplifiedLayerNormalization",
        low.of(value.a),
        low.of(value.b),
        low.small_weight(norm.weight),  # type: ignore[arg-type]  # `_norm_of` finds norms with weights
        outputs=[f"{name}/norm", "", "", f"{name}/sum"],
        epsilon=norm.eps,
    )
    low.set(norm, f"{name}/norm")
    low.chosen[value] = "SkipSimplifiedLayerNormalization, with the norm"
    low.chosen[norm] = "part of the sum before"
    return f"{name}/sum"


def _norm_of(value: g.Add, low: Lowering) -> g.RMSNorm | None:
    """Return the norm of a sum of whole rows, if it has a weight and is computed for the same tokens."""
    if len(value.shape) != 1 or value.a.shape != value.b.shape:
        return None
    todo = list(low.readers[value])
    for one in todo:
        if isinstance(one, g.LayerOutput):
            todo += low.readers[one]
        elif isinstance(one, g.RMSNorm) and one.weight is not None and one.weight.shape == value.shape:
            return one if one.groups == 1 and low.is_together(one, value) else None
    return None


@lowers(g.Mul)
def lower_mul(value: g.Mul, low: Lowering) -> str:
    """Lower a product of rows; a single number is repeated."""
    other = low.of(value.b)
    if g.size_of(value.b) == 1:
        other = low.reshape(other, *[1] * len(value.shape))
    return str(low.builder.node("Mul", low.of(value.a), other))


@lowers(g.Scale)
def lower_scale(value: g.Scale, low: Lowering) -> str:
    """Lower a product with a number."""
    return str(low.builder.node("Mul", low.of(value.x), low.builder.floats(value.factor)))


@lowers(g.WeightMul)
def lower_weight_mul(value: g.WeightMul, low: Lowering) -> str:
    """Lower a product with a vector of the file."""
    return str(low.builder.node("Mul", low.of(value.x), low.small_weight(value.weight)))


@lowers(g.WeightAdd)
def lower_weight_add(value: g.WeightAdd, low: Lowering) -> str:
    """Lower a sum with a vector of the file."""
    return str(low.builder.node("Add", low.of(value.x), low.small_weight(value.weight)))


@lowers(g.Clamp)
def lower_clamp(value: g.Clamp, low: Lowering) -> str:
    """Lower the limits."""
    b = low.builder
    return str(b.node("Clip", low.of(value.x), b.floats(value.low), b.floats(value.high)))


@lowers(g.Activation)
def lower_activation(value: g.Activation, low: Lowering) -> str:
    """Lower an activation function."""
    return ACTIVATIONS[value.function](low, low.of(value.x))


def _op(name: str, **attributes: Any) -> Callable[[Lowering, str], str]:
    """Return a function that adds a node of the operator."""
    return lambda low, x: str(low.builder.node(name, x, **attributes))


def _times_sigmoid(low: Lowering, x: str, factor: float = 1.0) -> str:
    b = low.builder
    inner = x if factor == 1 else b.node("Mul", x, b.floats(factor))
    return str(b.node("Mul", x, b.node("Sigmoid", inner)))


def _squared_relu(low: Lowering, x: str) -> str:
    half = low.builder.node("Relu", x)
    return str(low.builder.node("Mul", half, half))


ACTIVATIONS: dict[str, Callable[[Lowering, str], str]] = {
    "silu": _times_sigmoid,
    "gelu": _op("Gelu"),
    "gelu_tanh": _op("Gelu", approximate="tanh"),
    "quick_gelu": lambda low, x: _times_sigmoid(low, x, 1.702),
    "relu": _op("Relu"),
    "relu_squared": _squared_relu,
    "elu": _op("Elu"),
    "sigmoid": _op("Sigmoid"),
    "tanh": _op("Tanh"),
    "softplus": _op("Softplus"),
    "exp": _op("Exp"),
}
"""What adds the nodes of an activation function, by name."""


@lowers(g.Softmax)
def lower_softmax(value: g.Softmax, low: Lowering) -> str:
    """Lower to Softmax."""
    return str(low.builder.node("Softmax", low.of(value.x), axis=-1))


@lowers(g.Normalise)
def lower_normalise(value: g.Normalise, low: Lowering) -> str:
    """Lower to a division by the sum."""
    b, x = low.builder, low.of(value.x)
    total = b.node("ReduceSum", x, b.ints(-1), keepdims=1)
    return str(b.node("Div", x, b.node("Max", total, b.floats(value.low))))


@lowers(g.LayerOutput)
def lower_layer_output(value: g.LayerOutput, low: Lowering) -> str:
    """Return the rows of the input."""
    return low.of(value.x)


@lowers(g.Reshape)
def lower_reshape(value: g.Reshape, low: Lowering) -> str:
    """Lower to Reshape."""
    return low.reshape(low.of(value.x), *value.shape)


@lowers(g.Slice)
def lower_slice(value: g.Slice, low: Lowering) -> str:
    """Lower to Slice."""
    b = low.builder
    return str(b.node("Slice", low.of(value.x), b.ints(value.first), b.ints(value.last), b.ints(-1)))


@lowers(g.Concat)
def lower_concat(value: g.Concat, low: Lowering) -> str:
    """Lower to Concat; a part with a single head is repeated first."""
    b, front, parts = low.builder, value.shape[:-1], []
    for part in value.parts:
        repeats = [want // have for want, have in zip(front, part.shape[:-1], strict=True)]
        name = low.of(part)
        parts.append(name if set(repeats) <= {1} else b.node("Tile", name, b.ints(1, *repeats, 1)))
    return str(b.node("Concat", *parts, axis=-1))


@lowers(g.Repeat)
def lower_repeat(value: g.Repeat, low: Lowering) -> str:
    """Lower to Tile: of all heads, or of each one."""
    b, x, (n_head, size) = low.builder, low.of(value.x), value.x.shape
    if value.tiled:
        return str(b.node("Tile", x, b.ints(1, value.times, 1)))
    each = b.node("Tile", low.reshape(x, n_head, 1, size), b.ints(1, 1, value.times, 1))
    return low.reshape(each, *value.shape)


def _onnx_float(low: Lowering) -> int:
    return 1 if low.builder.float_type == np.float32 else 10  # FLOAT, FLOAT16
