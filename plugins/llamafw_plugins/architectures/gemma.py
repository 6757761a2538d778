"""The architecture ``gemma``: Gemma and CodeGemma (arXiv:2403.08295).

The graph is Llama's, with a scaled embedding, GeGLU instead of SwiGLU, and heads of their own size. Files have 1 added
to the weights of norms. Rotated pairs are the two halves of a head.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def gemma(model: Model) -> g.Graph:
    """Return the graph of a ``gemma`` model."""
    m, w = g.Metadata(model, "gemma"), g.Parameters.of(model)
    n_ctx, heads, eps = m.integer("context_length"), m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx)

    x = g.token_embedding(m, w) * m.integer("embedding_length") ** 0.5
    for i, layer in enumerate(w.layers(m.integer("block_count"))):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        q, k, v = g.attention_inputs(h, layer, *heads)
        a = g.attention(g.rope(q, turn), g.cache(g.rope(k, turn), v), heads.size**-0.5)
        x = x + g.linear(g.flat(a), layer["attn_output"])
        x = g.layer_output(x + g.gated_ffn(g.rms_norm(x, layer["ffn_norm"], eps), layer, "gelu_tanh"), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.", "cls.")
    w.check_all_used("gemma")
    return g.Graph(hidden, logits, n_ctx)
