"""The architecture ``rwkv7``: RWKV-7 "Goose" (arXiv:2503.14456).

Tensors have the names that llama.cpp's converter gives them.
"""

from __future__ import annotations

import math

from llamafw import Model, ModelError
from llamafw import graph as g
from llamafw_rwkv.operators import HeadDot, TokenShift, Wkv7

HEAD_NORM_EPS = 64e-5
KEY_NORM_EPS = 1e-24  # added to the square of a length that is about 1


def rwkv7(model: Model) -> g.Graph:
    """Return the graph of an ``rwkv7`` model."""
    m, w = g.Metadata(model, "rwkv7"), g.Parameters.of(model)
    n_ctx, n_embd, n_ff = (m.integer(key) for key in ("context_length", "embedding_length", "feed_forward_length"))
    size, eps = m.integer("wkv.head_size"), m.number("attention.layer_norm_epsilon", low=0)
    if n_embd % size:
        raise ModelError(f"{model.path}: {n_embd} numbers cannot be divided into heads of {size}")
    n_head = n_embd // size

    x = g.layer_norm(g.token_embedding(m, w), w["token_embd_norm"], eps)
    first_v = None  # the values of the first layer
    for i, layer in enumerate(w.layers(m.integer("block_count"))):
        mixed, v = time_mix(g.layer_norm(x, layer["attn_norm"], eps), layer, n_head, first_v)
        first_v = first_v or v
        x = x + mixed
        layer.of_shape("channel_mix_key", n_ff, n_embd)
        x = g.layer_output(x + channel_mix(g.layer_norm(x, layer["attn_norm_2"], eps), layer), i)
    hidden = g.layer_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, w["output"])
    w.check_all_used("rwkv7")
    return g.Graph(hidden, logits, n_ctx)


def time_mix(x: g.Value, layer: g.Parameters, n_head: int, first_v: g.Value | None) -> tuple[g.Value, g.Value]:
    """Return the time mixing of a layer, and its values; ``first_v`` are those of the first layer (section 4)."""
    (n_embd,) = x.shape
    has_gate = "time_mix_g1" in layer
    mixtures = shift(x, layer, "time_mix_lerp_fused", 6 if has_gate else 5)
    x_r, x_w, x_k, x_v, x_a, *x_g = mixtures

    r, k = g.linear(x_r, layer["time_mix_receptance"]), g.linear(x_k, layer["time_mix_key"])
    d = low_rank(g.activation(g.linear(x_w, layer["time_mix_w1"]), "tanh"), layer, "w")
    w = g.activation(g.activation(d, "sigmoid") * -math.exp(-0.5), "exp")
    rate = g.activation(low_rank(g.linear(x_a, layer["time_mix_a1"]), layer, "a"), "sigmoid")
    v = g.linear(x_v, layer["time_mix_value"])
    if first_v is None:
        layer.skip("time_mix_v0.", "time_mix_v1.", "time_mix_v2.")  # converted files have copies of other tensors
    else:
        share = g.activation(low_rank(g.linear(x_v, layer["time_mix_v1"]), layer, "v"), "sigmoid")
        v = v + (first_v + v * -1.0) * share

    removed = g.L2Norm(g.heads(g.WeightMul(k, vector(layer, "time_mix_k_k", n_embd)), n_head), KEY_NORM_EPS)
    k_a = g.WeightMul(k, vector(layer, "time_mix_k_a", n_embd))
    k = k + rate * k_a + k_a * -1.0
    r, w, k, v_heads, rate = (g.heads(one, n_head) for one in (r, w, k, v, rate))

    norm, shape = layer["time_mix_ln"], r.shape
    if norm.bias is None:
        raise g.GraphError(f"the tensor {norm.weight.name!r} has no bias")
    y: g.Value = Wkv7(r, w, k, v_heads, removed, rate)
    y = g.LayerNorm(y, reshape(norm.weight, *shape), reshape(norm.bias, *shape), HEAD_NORM_EPS)
    bonus = HeadDot(r, k, reshape(layer["time_mix_r_k"].weight, *shape))
    y = g.flat(y + v_heads * bonus)
    if has_gate:
        gate = g.activation(g.linear(x_g[0], layer["time_mix_g1"]), "sigmoid")
        y = y * g.linear(gate, layer["time_mix_g2"])
    return g.linear(y, layer["time_mix_output"]), v


def channel_mix(x: g.Value, layer: g.Parameters) -> g.Value:
    """Return the channel mixing of a layer: an MLP with the square of ReLU."""
    (mixed,) = shift(x, layer, "channel_mix_lerp_k", 1)
    h = g.activation(g.linear(mixed, layer["channel_mix_key"]), "relu_squared")
    return g.linear(h, layer["channel_mix_value"])


def shift(x: g.Value, layer: g.Parameters, name: str, n: int) -> list[g.Value]:
    """Return ``n`` mixtures of a token and the one before."""
    (n_embd,) = x.shape
    return g.split(g.flat(TokenShift(x, reshape(layer[name].weight, n, n_embd))), *[n_embd] * n)


def low_rank(h: g.Value, layer: g.Parameters, letter: str) -> g.Value:
    """Return the second product of a small MLP, with its bias."""
    weight = layer[f"time_mix_{letter}2"].weight
    return g.Linear(h, weight, vector(layer, f"time_mix_{letter}0", weight.shape[0]))


def vector(layer: g.Parameters, name: str, n: int) -> g.Weight:
    """Return a tensor of ``n`` numbers; some converters write further dimensions of 1."""
    return reshape(layer[name].weight, n)


def reshape(weight: g.Weight, *shape: int) -> g.Weight:
    """Return a tensor under another shape."""
    if [n for n in weight.shape if n > 1] not in ([n for n in shape if n > 1], [math.prod(shape)]):
        raise g.GraphError(f"the tensor {weight.name!r} has shape {weight.shape}; it cannot be {shape}")
    return g.Weight(weight.name, shape)
