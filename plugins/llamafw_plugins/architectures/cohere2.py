"""The architectures ``command-r`` and ``cohere2``: Command R, Command R+, Aya, Command R7B and Command A.

Attention and the feed-forward block have the same input and are added together (arXiv:2204.02311). Norms are LayerNorms
without biases. Rotated pairs are adjacent. In ``cohere2``, three of four layers see a window, and the fourth has no
positions.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def command_r(model: Model) -> g.Graph:
    """Return the graph of a ``command-r`` model."""
    m = g.Metadata(model, "command-r")
    return _cohere(m, None, [True] * m.integer("block_count"))


def cohere2(model: Model) -> g.Graph:
    """Return the graph of a ``cohere2`` model."""
    m = g.Metadata(model, "cohere2")
    return _cohere(m, m.integer("attention.sliding_window"), m.windowed_layers(m.integer("block_count"), 4))


def _cohere(m: g.Metadata, window: int | None, is_rotated: list[bool]) -> g.Graph:
    """Return the graph; layers without rotation have no window."""
    w, n_ctx, heads = g.Parameters.of(m.model), m.integer("context_length"), m.heads()
    eps = m.number("attention.layer_norm_epsilon", low=0)
    logit_scale = m.number("logit_scale", low=0, allow_low=True) or 1.0  # 0 in a file means 1
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx, interleaved=True)
    layers = list(w.layers(len(is_rotated)))
    has_head_norms = any(name in layer for layer in layers for name in ("attn_q_norm", "attn_k_norm"))  # Command R+

    x = g.token_embedding(m, w)
    for i, layer in enumerate(layers):
        h = g.layer_norm(x, layer["attn_norm"], eps)
        q, k, v = g.attention_inputs(h, layer, *heads)
        if has_head_norms:
            q = g.layer_norm(q, layer.of_shape("attn_q_norm", *q.shape), eps)
            k = g.layer_norm(k, layer.of_shape("attn_k_norm", *k.shape), eps)
        if is_rotated[i]:
            q, k = g.rope(q, turn), g.rope(k, turn)
        a = g.attention(q, g.cache(k, v), heads.size**-0.5, window=window if is_rotated[i] else None)
        x = g.layer_output(x + g.gated_ffn(h, layer) + g.linear(g.flat(a), layer["attn_output"]), i)
    hidden = g.layer_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w)) * logit_scale

    w.skip("rope_freqs.")
    w.check_all_used(m.architecture)
    return g.Graph(hidden, logits, n_ctx)
