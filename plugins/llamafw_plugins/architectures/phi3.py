"""The architecture ``phi3``: Phi-3, Phi-3.5, Phi-4 and Phi-4-mini (arXiv:2404.14219), without experts.

The graph is Llama's; Q, K and V are one tensor, gate and up another. Rotated pairs are the two halves of a head, or of
its first numbers only (Phi-4-mini). Models for 128k tokens have different frequencies for short and long contexts. A
sliding window holds in all layers, as in transformers; llama.cpp ignores it.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def phi3(model: Model) -> g.Graph:
    """Return the graph of a ``phi3`` model."""
    m, w = g.Metadata(model, "phi3"), g.Parameters.of(model)
    n_ctx, heads, eps = m.integer("context_length"), m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    if m.integer("expert_count", 0, low=0):
        m.fail("expert_count", "is not supported")
    window = m.integer("attention.sliding_window", 0, low=0) or None
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(m.integer("block_count"))):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        q, k, v = g.attention_inputs(h, layer, *heads)
        a = g.attention(g.rope(q, turn), g.cache(g.rope(k, turn), v), heads.size**-0.5, window=window)
        x = x + g.linear(g.flat(a), layer["attn_output"])
        x = g.layer_output(x + g.gated_ffn(g.rms_norm(x, layer["ffn_norm"], eps), layer), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.", "rope_factors_", "cls.")
    w.check_all_used("phi3")
    return g.Graph(hidden, logits, n_ctx)
