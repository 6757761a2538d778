"""The architecture ``falcon``: Falcon 7B, 11B, 40B and 180B (arXiv:2311.16867).

Attention and a feed-forward block without a gate are added to the same input; larger models have a norm for each of
them. Norms are LayerNorms. Rotated pairs are the two halves of a head.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def falcon(model: Model) -> g.Graph:
    """Return the graph of a ``falcon`` model."""
    m, w = g.Metadata(model, "falcon"), g.Parameters.of(model)
    n_ctx, heads, eps = m.integer("context_length"), m.heads(), m.number("attention.layer_norm_epsilon", low=0)
    turn, layers = g.rotation(m, m.n_rotated(heads.size), n_ctx), list(w.layers(m.integer("block_count")))
    has_two_norms = any("attn_norm_2" in layer for layer in layers)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(layers):
        h = normed = g.layer_norm(x, layer["attn_norm"], eps)
        if has_two_norms:
            h = g.layer_norm(x, layer["attn_norm_2"], eps)
        q, k, v = g.attention_inputs(h, layer, *heads)
        a = g.attention(g.rope(q, turn), g.cache(g.rope(k, turn), v), heads.size**-0.5)
        x = x + g.linear(g.flat(a), layer["attn_output"])
        x = g.layer_output(x + g.plain_ffn(normed, layer, "gelu"), i)
    hidden = g.layer_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used("falcon")
    return g.Graph(hidden, logits, n_ctx)
