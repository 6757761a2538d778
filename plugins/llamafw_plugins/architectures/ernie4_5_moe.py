"""The architecture ``ernie4_5-moe``: ERNIE 4.5 with experts (https://yiyan.baidu.com/blog/posts/ernie4.5).

Attention is Llama's. The first layers are dense; of the others, all or every few ones have experts, most models beside
a shared one that every token uses. Rotated pairs are adjacent.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def ernie4_5_moe(model: Model) -> g.Graph:
    """Return the graph of an ``ernie4_5-moe`` model."""
    m, w = g.Metadata(model, "ernie4_5-moe"), g.Parameters.of(model)
    n_ctx, heads, eps = m.integer("context_length"), m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    n_dense, step = m.integer("leading_dense_block_count", 0, low=0), m.integer("interleave_moe_layer_step")
    has_shared = m.integer("expert_shared_feed_forward_length", 0, low=0) > 0
    routing, turn = g.routing(m), g.rotation(m, m.n_rotated(heads.size), n_ctx, interleaved=True)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(m.integer("block_count"))):
        x = x + g.self_attention(g.rms_norm(x, layer["attn_norm"], eps), layer, heads, turn)
        h = g.rms_norm(x, layer["ffn_norm"], eps)
        if i < n_dense or (i + 1) % step:
            x = x + g.gated_ffn(h, layer)
        else:
            x = x + g.experts(h, layer, routing)
            x = x + g.shared_expert(h, layer) if has_shared else x
        x = g.layer_output(x, i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used("ernie4_5-moe")
    return g.Graph(hidden, logits, n_ctx)
