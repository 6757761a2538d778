"""The architecture ``falcon-h1``: Falcon-H1 (arXiv:2507.22448), whose layers have attention and Mamba-2 side by side.

Both have the same input and are added together. Files have the model's factors multiplied into its matrices. Rotated
pairs are the two halves of a head.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def falcon_h1(model: Model) -> g.Graph:
    """Return the graph of a ``falcon-h1`` model."""
    m, w = g.Metadata(model, "falcon-h1"), g.Parameters.of(model)
    n_ctx, heads, eps = m.integer("context_length"), m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    sizes, scale = g.state_sizes(m), m.attention_scale(heads.size)
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx)
    layers = list(w.layers(m.integer("block_count")))
    has_norm = any("ssm_norm" in layer for layer in layers)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(layers):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        q, k, v = g.attention_inputs(h, layer, *heads)
        a = g.attention(g.rope(q, turn), g.cache(g.rope(k, turn), v), scale)
        x = x + g.linear(g.flat(a), layer["attn_output"]) + g.mamba2(h, layer, sizes, eps, has_norm=has_norm)
        x = g.layer_output(x + g.gated_ffn(g.rms_norm(x, layer["ffn_norm"], eps), layer), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used("falcon-h1")
    return g.Graph(hidden, logits, n_ctx)
