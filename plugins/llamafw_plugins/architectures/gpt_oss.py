"""The architecture ``gpt-oss``: OpenAI's gpt-oss-20b and gpt-oss-120b (arXiv:2508.10925).

Every second layer, from the first on, sees a window. Each head has an attention sink. Feed-forward blocks are mixtures
of experts with biases and a limited SwiGLU. Rotated pairs are the two halves of a head.

YaRN's ramp begins and ends at fractions of a pair, as in OpenAI's code and transformers. llama.cpp rounds to pairs.
"""

from __future__ import annotations

import math

from llamafw import Model
from llamafw import graph as g

LIMIT = 7.0


def gpt_oss(model: Model) -> g.Graph:
    """Return the graph of a ``gpt-oss`` model."""
    m, w = g.Metadata(model, "gpt-oss"), g.Parameters.of(model)
    n_ctx, n_layer = m.integer("context_length"), m.integer("block_count")
    heads, eps = m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    window, is_windowed = m.integer("attention.sliding_window"), m.windowed_layers(n_layer, 2)
    routing = g.routing(m, gating="softmax of the chosen", normalised=False)
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx, whole_pairs=False)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(n_layer)):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        q, k, v = g.attention_inputs(h, layer, *heads)
        past, seen = g.cache(g.rope(k, turn), v), window if is_windowed[i] else None
        a = g.attention(g.rope(q, turn), past, heads.size**-0.5, window=seen, sinks=layer["attn_sinks"].weight)
        x = x + g.linear(g.flat(a), layer["attn_output"])
        h = g.rms_norm(x, layer["post_attention_norm"], eps)
        x = g.layer_output(x + g.experts(h, layer, routing, limited_swiglu), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used("gpt-oss")
    return g.Graph(hidden, logits, n_ctx)


def limited_swiglu(gate: g.Value, up: g.Value) -> g.Value:
    """Return ``gate · sigmoid(1.702 gate) · (up + 1)``, with ``gate`` up to 7 and ``up`` from −7 to 7."""
    gate = g.activation(g.Clamp(gate, -math.inf, LIMIT), "quick_gelu")
    return gate * g.Clamp(up, -LIMIT, LIMIT) + gate
