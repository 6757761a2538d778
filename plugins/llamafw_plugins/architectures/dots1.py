"""The architecture ``dots1``: dots.llm1 (arXiv:2506.05767).

Attention is that of Qwen3, with RMSNorm on each head of Q and K. The first layers are dense; in the others, each token
uses some of many experts and a shared one. Rotated pairs are the two halves of a head.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def dots1(model: Model) -> g.Graph:
    """Return the graph of a ``dots1`` model."""
    m, w = g.Metadata(model, "dots1"), g.Parameters.of(model)
    n_ctx, n_layer = m.integer("context_length"), m.integer("block_count")
    heads, eps = m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    n_dense, routing = (
        m.integer("leading_dense_block_count", 0, low=0),
        g.routing(m, gating="sigmoid", normalised=False),
    )
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(n_layer)):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        q, k, v = g.attention_inputs(h, layer, *heads)
        q = g.rope(g.rms_norm(q, layer["attn_q_norm"], eps), turn)
        k = g.rope(g.rms_norm(k, layer["attn_k_norm"], eps), turn)
        x = x + g.linear(g.flat(g.attention(q, g.cache(k, v), heads.size**-0.5)), layer["attn_output"])
        h = g.rms_norm(x, layer["ffn_norm"], eps)
        if i < n_dense:
            x = x + g.gated_ffn(h, layer)
        else:
            x = x + g.experts(h, layer, routing) + g.gated_ffn(h, layer, suffix="_shexp")
        x = g.layer_output(x, i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used("dots1")
    return g.Graph(hidden, logits, n_ctx)
