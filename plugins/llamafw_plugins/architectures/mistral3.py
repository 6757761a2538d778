"""The architecture ``mistral3``: Ministral 3, Devstral 2, and newer files of Mistral Small 3.

The graph is Llama's, and queries grow with the logarithm of the position, as in Llama 4. Files have the rows of Q and K
permuted, so that rotated pairs are adjacent.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def mistral3(model: Model) -> g.Graph:
    """Return the graph of a ``mistral3`` model."""
    m, w = g.Metadata(model, "mistral3"), g.Parameters.of(model)
    n_ctx, heads, eps = m.integer("context_length"), m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    routing = g.routing(m) if m.integer("expert_count", 0, low=0) else None
    scale, temperature = m.attention_scale(heads.size), m.attention_temperature()
    multiplier = m.number("rope.scaling.yarn_log_multiplier", 0.0, low=0, allow_low=True)
    magnitude = g.yarn_temperature(m) / g.yarn_temperature(m, multiplier)
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx, interleaved=True, yarn_magnitude=magnitude)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(m.integer("block_count"))):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        q, k, v = g.attention_inputs(h, layer, *heads)
        a = g.attention(g.rope(q, turn), g.cache(g.rope(k, turn), v), scale, temperature=temperature)
        x = x + g.linear(g.flat(a), layer["attn_output"])
        h = g.rms_norm(x, layer["ffn_norm"], eps)
        x = g.layer_output(x + (g.experts(h, layer, routing) if routing else g.gated_ffn(h, layer)), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.", "rope_factors_")
    w.check_all_used("mistral3")
    return g.Graph(hidden, logits, n_ctx)
