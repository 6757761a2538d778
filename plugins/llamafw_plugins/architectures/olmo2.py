"""The architectures ``olmo2`` and ``olmoe``: OLMo 2 (arXiv:2501.00656), OLMo 3 and OLMoE (arXiv:2409.02060).

All heads of Q together and all heads of K together have a norm. Rotated pairs are the two halves of a head. In
``olmo2``, norms stand after each block instead of before it. In OLMo 3, three of four layers see a window, and their
rotations are not scaled when the context is extended. In ``olmoe``, feed-forward blocks are mixtures of experts.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def olmo2(model: Model) -> g.Graph:
    """Return the graph of an ``olmo2`` model."""
    m, w = g.Metadata(model, "olmo2"), g.Parameters.of(model)
    n_ctx, n_layer, heads = m.integer("context_length"), m.integer("block_count"), m.heads()
    eps = m.number("attention.layer_norm_rms_epsilon", low=0)
    window = m.integer("attention.sliding_window", 0, low=0)  # 0: all layers see all tokens
    is_windowed = m.windowed_layers(n_layer, 4) if window else [False] * n_layer
    n_rot, base = m.n_rotated(heads.size), m.number("rope.freq_base", 1e4, low=0)
    full, local = g.rotation(m, n_rot, n_ctx), g.plain_rotation(m.number("rope.freq_base_swa", base, low=0), n_rot)

    def norm(q: g.Value, p: g.Parameter) -> g.Value:
        return _joint_norm(q, p, eps)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(n_layer)):
        turn, seen = (local, window) if is_windowed[i] else (full, None)
        h = g.self_attention(x, layer, heads, turn, norm=norm, window=seen)
        x = x + g.rms_norm(h, layer["post_attention_norm"], eps)
        x = g.layer_output(x + g.rms_norm(g.gated_ffn(x, layer), layer["post_ffw_norm"], eps), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used("olmo2")
    return g.Graph(hidden, logits, n_ctx)


def olmoe(model: Model) -> g.Graph:
    """Return the graph of an ``olmoe`` model."""
    m, w = g.Metadata(model, "olmoe"), g.Parameters.of(model)
    n_ctx, heads, eps = m.integer("context_length"), m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    routing, turn = g.routing(m, normalised=False), g.rotation(m, m.n_rotated(heads.size), n_ctx)

    def norm(q: g.Value, p: g.Parameter) -> g.Value:
        return _joint_norm(q, p, eps)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(m.integer("block_count"))):
        x = x + g.self_attention(g.rms_norm(x, layer["attn_norm"], eps), layer, heads, turn, norm=norm)
        x = g.layer_output(x + g.experts(g.rms_norm(x, layer["ffn_norm"], eps), layer, routing), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used("olmoe")
    return g.Graph(hidden, logits, n_ctx)


def _joint_norm(x: g.Value, p: g.Parameter, eps: float) -> g.Value:
    """Return heads that are normalised together."""
    return g.heads(g.rms_norm(g.flat(x), p, eps), x.shape[0])
