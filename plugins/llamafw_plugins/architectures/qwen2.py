"""The architecture ``qwen2``: Qwen2 and Qwen2.5 (arXiv:2412.15115), QwQ, distilled DeepSeek-R1 models.

The graph is Llama's, with biases on Q, K and V. Rotated pairs are the two halves of a head.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def qwen2(model: Model) -> g.Graph:
    """Return the graph of a ``qwen2`` model."""
    m, w = g.Metadata(model, "qwen2"), g.Parameters.of(model)
    n_ctx, heads, eps = m.integer("context_length"), m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    if m.integer("attention.sliding_window", 0, low=0):
        m.fail("attention.sliding_window", "is not supported")
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(m.integer("block_count"))):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        q, k, v = g.attention_inputs(h, layer, *heads)
        a = g.attention(g.rope(q, turn), g.cache(g.rope(k, turn), v), heads.size**-0.5)
        x = x + g.linear(g.flat(a), layer["attn_output"])
        x = g.layer_output(x + g.gated_ffn(g.rms_norm(x, layer["ffn_norm"], eps), layer), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.", "cls.")
    w.check_all_used("qwen2")
    return g.Graph(hidden, logits, n_ctx)
