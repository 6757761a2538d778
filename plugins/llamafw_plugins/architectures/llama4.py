"""The architecture ``llama4``: Llama 4 Scout and Maverick (https://ai.meta.com/blog/llama-4-multimodal-intelligence/).

Texts only. Three of four layers see a chunk of 8192 positions; the fourth sees all tokens and has no positions, but
queries that grow with the number of tokens (arXiv:2501.19399). Each token uses a shared expert and, mostly, one other,
whose input is multiplied by the expert's weight. In Scout, rotated queries and keys are normalised. Rotated pairs are
adjacent.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g

N_EXPERT_MAVERICK = 128
"""Number of experts of Maverick, whose files do not say that queries and keys are not normalised."""


def llama4(model: Model) -> g.Graph:
    """Return the graph of a ``llama4`` model.

    llama.cpp computes with chunks of 8192 and a temperature of (0.1, 8192), whatever the file says.
    """
    m, w = g.Metadata(model, "llama4"), g.Parameters.of(model)
    n_ctx, n_layer = m.integer("context_length"), m.integer("block_count")
    heads, eps = m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    step = m.integer("interleave_moe_layer_step", low=0)  # 0: no layer has experts
    routing = g.routing(m, gating="sigmoid", normalised=False) if step else None
    is_normed = m.integer("expert_count", 0, low=0) != N_EXPERT_MAVERICK

    chunk = m.integer("attention.sliding_window", 8192, low=0)  # 0: all layers see all tokens, and have positions
    is_local = m.windowed_layers(n_layer, 4) if chunk else [True] * n_layer
    turn, scale = g.rotation(m, m.n_rotated(heads.size), n_ctx, interleaved=True), m.attention_scale(heads.size)
    local = {"window": chunk, "window_kind": "chunked"} if chunk else {}
    grown = {"temperature": _temperature(m), "temperature_offset": 1}

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(n_layer)):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        q, k, v = g.attention_inputs(h, layer, *heads)
        if is_local[i]:
            q, k = g.rope(q, turn), g.rope(k, turn)
            if is_normed:
                q, k = g.rms_norm(q, None, eps), g.rms_norm(k, None, eps)
        a = g.attention(q, g.cache(k, v), scale, **(local if is_local[i] else grown))
        x = x + g.linear(g.flat(a), layer["attn_output"])
        h = g.rms_norm(x, layer["ffn_norm"], eps)
        if routing and (i + 1) % step == 0:
            x = x + g.experts(h, layer, routing, weighs_inputs=True) + g.gated_ffn(h, layer, suffix="_shexp")
        else:
            x = x + g.gated_ffn(h, layer)
        x = g.layer_output(x, i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used("llama4")
    return g.Graph(hidden, logits, n_ctx)


def _temperature(m: g.Metadata) -> tuple[float, int] | None:
    """Return the factor and the length by which queries without positions grow; None if they do not."""
    factor = m.number("attention.temperature_scale", 0.1, low=0, allow_low=True)
    return (factor, m.integer("attention.temperature_length", 8192)) if factor else None
