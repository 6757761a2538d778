"""Blocks of operators that many architectures share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from llamafw.errors import ModelError
from llamafw.graph.attention import Rotation
from llamafw.graph.builders import activation, attention, cache, embedding, flat, heads, linear, rope
from llamafw.graph.metadata import Heads, Metadata
from llamafw.graph.rows import Function, WeightAdd
from llamafw.graph.values import POSITIONS, TOKENS, TYPES, GraphError, Value
from llamafw.graph.weights import Parameter, Parameters


def token_embedding(m: Metadata, w: Parameters) -> Value:
    """Return each token's row of ``token_embd``, which must have as many rows as the tokenizer has tokens."""
    matrix = w["token_embd"]
    tokens = m.model.metadata.get("tokenizer.ggml.tokens")
    n_rows = matrix.weight.shape[0]
    if tokens is not None and len(tokens) != n_rows:
        raise ModelError(f"{m.model.path}: {matrix.weight.name!r} has {n_rows} rows for {len(tokens)} tokens")
    return embedding(TOKENS, w.of_shape("token_embd", n_rows, m.integer("embedding_length")))


def position_embedding(m: Metadata, w: Parameters) -> Value:
    """Return each position's row of ``position_embd``, which must have one for each position of the context."""
    shape = (m.integer("context_length"), m.integer("embedding_length"))
    return embedding(POSITIONS, w.of_shape("position_embd", *shape))


def layer_count(m: Metadata, w: Parameters) -> int:
    """Return the number of layers, and skip the blocks at the end that predict more than one token.

    Their number, ``nextn_predict_layers``, is part of ``block_count``.
    """
    n_all, n_skipped = m.integer("block_count"), m.integer("nextn_predict_layers", 0, low=0)
    if n_skipped >= n_all:
        m.fail("nextn_predict_layers", f"is {n_skipped}; there are {n_all} blocks altogether")
    w.skip(*(f"blk.{i}." for i in range(n_all - n_skipped, n_all)))
    return n_all - n_skipped


def attention_inputs(
    x: Value, layer: Parameters, n_head: int, n_head_kv: int, size: int, value_size: int | None = None
) -> tuple[Value, Value, Value]:
    """Return the queries, keys and values of a layer, each divided into heads.

    A file has them as three parameters, ``attn_q``, ``attn_k`` and ``attn_v``, or as one with all rows, ``attn_qkv``.

    Parameters
    ----------
    x : Value
        The input of the projections, ``(n_embd,)``.
    layer : Parameters
        The layer's parameters.
    n_head, n_head_kv : int
        Numbers of heads of the queries, and of the keys and values.
    size : int
        Size of one head of queries and keys.
    value_size : int, optional
        Size of one head of values. Default: ``size``.
    """
    value_size = value_size or size
    n_q, n_k, n_v = n_head * size, n_head_kv * size, n_head_kv * value_size
    if "attn_qkv" in layer:
        fused = layer.of_shape("attn_qkv", n_q + n_k + n_v, x.shape[-1])
        parts = (fused.rows(0, n_q), fused.rows(n_q, n_q + n_k), fused.rows(n_q + n_k, n_q + n_k + n_v))
    else:
        parts = (layer["attn_q"], layer["attn_k"], layer["attn_v"])
    q, k, v = (linear(x, part) for part in parts)
    return heads(q, n_head, size), heads(k, n_head_kv, size), heads(v, n_head_kv, value_size)


def self_attention(
    x: Value,
    layer: Parameters,
    sizes: Heads,
    turn: Rotation | None,
    *,
    scale: float | None = None,
    norm: Callable[[Value, Parameter], Value] | None = None,
    **options: Any,
) -> Value:
    """Return causal attention with rotary positions, as the output of ``attn_output``.

    Parameters
    ----------
    x : Value
        The input of the projections, ``(n_embd,)``.
    layer : Parameters
        The layer's parameters: those of `attention_inputs`, and ``attn_output``.
    sizes : Heads
        Numbers and sizes of the heads.
    turn : Rotation, optional
        The rotary positions. None: the layer has no positions.
    scale : float, optional
        The factor on scores. Default: ``1 / sqrt(size)``.
    norm : callable, optional
        Normalises queries and keys before they are rotated, given their heads and ``attn_q_norm`` or ``attn_k_norm``.
    **options
        More options of `Attention`.
    """
    q, k, v = attention_inputs(x, layer, *sizes)
    if norm is not None:
        q, k = norm(q, layer["attn_q_norm"]), norm(k, layer["attn_k_norm"])
    if turn is not None:
        q, k = rope(q, turn), rope(k, turn)
    a = attention(q, cache(k, v), sizes.size**-0.5 if scale is None else scale, **options)
    return linear(flat(a), layer["attn_output"])


def gated_ffn(x: Value, layer: Parameters, function: Function = "silu", *, suffix: str = "") -> Value:
    """Return the gated feed-forward block ``down (f(gate x) · up x)``, SwiGLU by default (arXiv:2002.05202).

    A file has ``ffn_gate`` and ``ffn_up``, or only ``ffn_up`` with the rows of both. A ``suffix`` belongs to all names:
    ``_shexp`` for the expert that every token uses.
    """
    gate, up = gate_and_up(layer, suffix)
    return linear(activation(linear(x, gate), function) * linear(x, up), layer[f"ffn_down{suffix}"])


def plain_ffn(x: Value, layer: Parameters, function: Function, *, suffix: str = "") -> Value:
    """Return the feed-forward block without a gate, ``down f(up x)``; a ``suffix`` belongs to all names."""
    return linear(activation(linear(x, layer[f"ffn_up{suffix}"]), function), layer[f"ffn_down{suffix}"])


def gate_and_up(layer: Parameters, suffix: str = "") -> tuple[Parameter, Parameter]:
    """Return the two parameters of a gated feed-forward block, which may be the halves of one."""
    up = layer[f"ffn_up{suffix}"]
    if f"ffn_gate{suffix}" in layer:
        return layer[f"ffn_gate{suffix}"], up
    down = layer[f"ffn_down{suffix}"].weight
    n_ff = down.shape[-1] if down.shape else 0
    if len(up.weight.shape) != 2 or up.weight.shape[0] != 2 * n_ff:
        gate = up.weight.name.replace("ffn_up", "ffn_gate")
        fused = f"{up.weight.name!r} of shape {up.weight.shape} does not contain it"
        raise GraphError(f"the tensor {gate!r} is missing, and {fused} ({down.name!r} has shape {down.shape})")
    return up.rows(0, n_ff), up.rows(n_ff, 2 * n_ff)


def softcap(x: Value, cap: float) -> Value:
    """Return ``cap · tanh(x / cap)``, or ``x`` if ``cap`` is 0 (arXiv:2408.00118)."""
    return activation(x * (1 / cap), "tanh") * cap if cap else x


def add_token_types(x: Value, w: Parameters) -> Value:
    """Return the embeddings of tokens plus those of their types, which BERT has; files may have none."""
    if "token_types" not in w:
        return x
    table, (n_embd,) = w["token_types"], x.shape
    rows = table.weight
    if len(rows.shape) != 2 or rows.shape[1] != n_embd:
        raise GraphError(f"the tensor {rows.name!r} has shape {rows.shape}; its rows must have {n_embd} numbers")
    if rows.shape[0] == 1:
        return WeightAdd(x, replace(rows, shape=(n_embd,)))
    return x + embedding(TYPES, table)


def alibi_slopes(n_head: int, max_bias: float = 8.0) -> tuple[float, ...]:
    """Return how much the scores of each head decrease per token of distance (ALiBi, arXiv:2108.12409).

    For a power of two they are ``2^(−max_bias · i / n_head)``, i = 1 … n_head. Other numbers of heads have those of the
    next lower power of two, and then every other one of the next higher power.
    """
    n = 1 << n_head.bit_length() - 1
    slopes = [2 ** (-max_bias * (i + 1) / n) for i in range(n)]
    return (*slopes, *(2 ** (-max_bias * (2 * i + 1) / (2 * n)) for i in range(n_head - n)))


def output_matrix(parameters: Parameters) -> Parameter:
    """Return the output matrix, or the embedding matrix if the file has no output matrix."""
    return parameters["output" if "output" in parameters else "token_embd"]
