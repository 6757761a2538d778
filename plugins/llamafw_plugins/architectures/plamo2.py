"""The architecture ``plamo2``: PLaMo 2 (https://huggingface.co/pfnet/plamo-2-8b).

Every second layer is Mamba-2 whose keys, queries and steps are computed after the convolution, and normalised; the
others are attention with RMSNorm on each head of Q and K. Branches are normalised before and after they are computed.
Rotated pairs are the two halves of a head.
"""

from __future__ import annotations

from dataclasses import replace

from llamafw import Model
from llamafw import graph as g

HEAD_EPS = 1e-6
"""Epsilon of the norms of queries and keys in the original. llama.cpp takes that of the other norms."""

LEAST_RANK = 64
"""Steps are computed from a sixteenth of the embedding's numbers, but from so many at least."""


def plamo2(model: Model) -> g.Graph:
    """Return the graph of a ``plamo2`` model; layers without KV heads are Mamba."""
    m, w = g.Metadata(model, "plamo2"), g.Parameters.of(model)
    n_ctx, n_layer, n_embd = (m.integer(key) for key in ("context_length", "block_count", "embedding_length"))
    n_head, n_kv = (m.integers(f"attention.{key}", n_layer) for key in ("head_count", "head_count_kv"))
    size, eps, sizes = m.integer("attention.key_length"), m.number("attention.layer_norm_rms_epsilon", low=0), _sizes(m)
    if m.integer("attention.value_length", size) != size:
        m.fail("attention.value_length", f"differs from the size of keys, {size}, which is not supported")
    turn, windows = g.rotation(m, m.n_rotated(size), n_ctx), _windows(m, n_layer)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(n_layer)):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        if n_kv[i]:
            if n_head[i] % n_kv[i] or not n_head[i]:
                m.fail("attention.head_count", f"is {n_head[i]} in layer {i}, which does not fit {n_kv[i]} KV heads")
            y = _attention(h, layer, g.Heads(n_head[i], n_kv[i], size, size), turn, windows[i])
        else:
            y = _mamba(h, layer, sizes, eps)
        x = x + g.RMSNorm(y, layer.tensor("post_attention_norm", n_embd), eps)
        y = g.gated_ffn(g.rms_norm(x, layer["ffn_norm"], eps), layer)
        x = g.layer_output(x + g.RMSNorm(y, layer.tensor("post_ffw_norm", n_embd), eps), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used("plamo2")
    return g.Graph(hidden, logits, n_ctx)


def _attention(h: g.Value, layer: g.Parameters, heads: g.Heads, turn: g.Rotation, window: int | None) -> g.Value:
    """Return attention, with a norm of its own for each head."""
    q, k, v = g.attention_inputs(h, layer, *heads)
    q = g.rms_norm(q, layer.of_shape("attn_q_norm", heads.n, heads.size), HEAD_EPS)
    k = g.rms_norm(k, layer.of_shape("attn_k_norm", heads.n_kv, heads.size), HEAD_EPS)
    a = g.attention(g.rope(q, turn), g.cache(g.rope(k, turn), v), heads.size**-0.5, window=window)
    return g.linear(g.flat(a), layer["attn_output"])


def _mamba(h: g.Value, layer: g.Parameters, sizes: g.StateSizes, eps: float) -> g.Value:
    """Return Mamba-2 (arXiv:2405.21060), whose gate ``z`` and input are side by side in each head of ``ssm_in``."""
    n_head, n_state, n_inner = sizes.n_head, sizes.n_state, sizes.n_inner
    both = g.heads(g.linear(h, layer.of_shape("ssm_in", 2 * n_inner, h.shape[-1])), n_head)
    z, mixed = g.split(both, sizes.size, sizes.size)
    mixed = g.activation(g.conv(g.flat(mixed), layer.of_shape("ssm_conv1d", n_inner, sizes.kernel)), "silu")

    n_rank = max(LEAST_RANK, h.shape[-1] // 16)
    inputs = layer.of_shape("ssm_x", 2 * n_state + n_rank, n_inner)
    key, query, rank = (
        g.RMSNorm(part, layer.tensor(f"ssm_{name}_norm", part.shape[-1]), eps)
        for name, part in zip(("b", "c", "dt"), g.split(g.linear(mixed, inputs), n_state, n_state, n_rank), strict=True)
    )
    layer.tensor("ssm_dt.bias", n_head)
    step = g.activation(g.linear(rank, layer.of_shape("ssm_dt", n_head, n_rank)), "softplus")

    values, step = g.heads(mixed, n_head), g.heads(step, n_head)
    k, q = (g.Repeat(g.heads(part, 1), n_head) for part in (key, query))
    a, d = (replace(layer.tensor(name, n_head), shape=(n_head, 1)) for name in ("ssm_a", "ssm_d"))
    y = g.LinearAttention(q, k, values * step, g.WeightMul(step, a), "decay") + g.WeightMul(values, d)
    return g.linear(g.flat(y * g.activation(z, "silu")), layer["ssm_out"])


def _sizes(m: g.Metadata) -> g.StateSizes:
    """Return the sizes of Mamba-2; all heads have the same keys and queries, which files call no groups."""
    n_head, n_inner, n_state, kernel = (
        m.integer(f"ssm.{key}") for key in ("time_step_rank", "inner_size", "state_size", "conv_kernel")
    )
    if n_inner % n_head:
        m.fail("ssm.inner_size", f"is {n_inner}, which cannot be divided into {n_head} heads")
    if (n_group := m.integer("ssm.group_count", 0, low=0)) != 0:
        m.fail("ssm.group_count", f"is {n_group}; only 0 is supported")
    return g.StateSizes(n_head, n_inner // n_head, 1, n_state, kernel)


def _windows(m: g.Metadata, n_layer: int) -> list[int | None]:
    """Return how many tokens each layer sees, None for all of them.

    Files of llama.cpp's converter have no windows.
    """
    window = m.integer("attention.sliding_window", 0, low=0) or None
    key = "attention.sliding_window_pattern"
    is_windowed = m.flags(key, n_layer) if m.has(key) else [True] * n_layer
    return [window if one else None for one in is_windowed]
