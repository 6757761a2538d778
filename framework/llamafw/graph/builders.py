"""Functions that build values from parameters.

Architectures are written with them.
"""

from __future__ import annotations

import math
from typing import Any

from llamafw.graph.attention import Attention, Cache, KeyValue, Rope, Rotation
from llamafw.graph.experts import ExpertLinear, Gather, TopK, WeightedSum
from llamafw.graph.recurrent import Conv
from llamafw.graph.rows import (
    Activation,
    EmbeddingLookup,
    Function,
    LayerNorm,
    LayerOutput,
    Linear,
    Normalise,
    RMSNorm,
    Softmax,
)
from llamafw.graph.shapes import Concat, Reshape, Slice
from llamafw.graph.values import GraphError, Value
from llamafw.graph.weights import Parameter, Weight, describe_row


def embedding(ids: Value, p: Parameter) -> Value:
    """Return the rows ``ids`` of an embedding matrix."""
    _refuse(p.bias, p.scale)
    return EmbeddingLookup(ids, p.weight)


def linear(x: Value, p: Parameter) -> Value:
    """Return ``W x + b``."""
    return Linear(x, p.weight, p.bias, p.scale)


def expert_linear(x: Value, chosen: Value, p: Parameter) -> Value:
    """Return ``W[e] x + b[e]`` for each chosen expert ``e``."""
    return ExpertLinear(x, chosen, p.weight, p.bias, p.scale)


def rms_norm(x: Value, p: Parameter | None, eps: float) -> Value:
    """Return the RMSNorm over the last axis, without weights if ``p`` is None."""
    if p is not None:
        _refuse(p.bias, p.scale)
    return RMSNorm(x, None if p is None else p.weight, eps)


def layer_norm(x: Value, p: Parameter | None, eps: float) -> Value:
    """Return the LayerNorm over the last axis, without weights if ``p`` is None."""
    if p is not None:
        _refuse(p.scale)
    return LayerNorm(x, None if p is None else p.weight, None if p is None else p.bias, eps)


def activation(x: Value, function: Function) -> Value:
    """Return an activation function applied to each number."""
    return Activation(x, function)


def softmax(x: Value) -> Value:
    """Return the softmax over the last axis."""
    return Softmax(x)


def normalise(x: Value, low: float = 0.0) -> Value:
    """Return each number divided by the sum over the last axis, or by ``low`` if the sum is smaller."""
    return Normalise(x, low)


def heads(x: Value, n: int, size: int | None = None) -> Value:
    """Return a row divided into ``n`` heads; GraphError if they cannot have ``size`` numbers each."""
    n_all = x.shape[-1] if x.shape else 0
    if n_all % n or n_all // n != (size or n_all // n):
        sizes = "" if size is None else f" of {size} numbers"
        raise GraphError(f"a row of shape {describe_row(x)} cannot be divided into {n} heads{sizes}")
    return Reshape(x, (n, n_all // n))


def flat(x: Value) -> Value:
    """Return the heads joined to one row."""
    return Reshape(x, (math.prod(x.shape),))


def split(x: Value, *sizes: int) -> list[Value]:
    """Return the last axis divided into parts of the given sizes."""
    if not x.shape or sum(sizes) != x.shape[-1]:
        raise GraphError(f"a row of shape {describe_row(x)} cannot be split into {sizes}")
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [Slice(x, end - size, end) for size, end in zip(sizes, ends, strict=True)]


def concat(*parts: Value) -> Value:
    """Return the rows joined along the last axis."""
    return Concat(parts)


def rope(x: Value, rotation: Rotation) -> Value:
    """Return the heads rotated by the token's position."""
    return Rope(x, rotation)


def cache(k: Value, v: Value) -> Cache:
    """Return the keys and values of a token and of those before it in its slot."""
    return Cache(k, v)


def whole_text(k: Value, v: Value) -> KeyValue:
    """Return the keys and values of the whole text."""
    return KeyValue(k, v)


def attention(q: Value, past: Cache | KeyValue, scale: float, **options: Any) -> Value:
    """Return the attention of ``q`` over ``past``, with the options of `Attention`."""
    return Attention(q, past, scale, **options)


def conv(x: Value, p: Parameter) -> Value:
    """Return the causal convolution of each channel with its row of the weight."""
    _refuse(p.scale)
    return Conv(x, p.weight, p.bias)


def top_k(x: Value, k: int) -> Value:
    """Return the indices of the ``k`` largest numbers."""
    return TopK(x, k)


def gather(x: Value, indices: Value) -> Value:
    """Return the numbers at some indices."""
    return Gather(x, indices)


def weighted_sum(parts: Value, weights: Value) -> Value:
    """Return the sum of the parts, each multiplied by its weight."""
    return WeightedSum(parts, weights)


def layer_output(x: Value, layer: int) -> Value:
    """Mark ``x`` as the output of a layer."""
    return LayerOutput(x, layer)


def _refuse(*weights: Weight | None) -> None:
    """Raise GraphError if a parameter has a tensor that its operator does not use."""
    for weight in weights:
        if weight is not None:
            raise GraphError(f"the tensor {weight.name!r} is not supported")
