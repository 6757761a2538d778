"""The architecture ``t5encoder``: the encoder of T5 (arXiv:1910.10683), T5 v1.1, Flan-T5, Sentence-T5 and GTR-T5.

Scores are not scaled. A bias depends on the distance of a key; the table of the first layer is that of all layers. The
feed-forward block has ReLU, or, in newer models, a gate with GELU.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def t5encoder(model: Model) -> g.Graph:
    """Return the graph of a ``t5encoder`` model."""
    m, w = g.Metadata(model, "t5encoder"), g.Parameters.of(model)
    heads, eps = m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    table = w.of_shape("enc.blk.0.attn_rel_b", m.integer("attention.relative_buckets_count", low=4), heads.n).weight

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(m.integer("block_count"), "enc.blk")):
        q, k, v = g.attention_inputs(g.rms_norm(x, layer["attn_norm"], eps), layer, *heads)
        a = g.attention(q, g.whole_text(k, v), 1.0, position_bias=table)
        x = x + g.linear(g.flat(a), layer["attn_o"])
        h = g.rms_norm(x, layer["ffn_norm"], eps)
        is_gated = "ffn_gate" in layer
        x = x + (g.gated_ffn(h, layer, "gelu_tanh") if is_gated else g.plain_ffn(h, layer, "relu"))
        x = g.layer_output(x, i)
    hidden = g.rms_norm(x, w["enc.output_norm"], eps)

    w.skip("output.", *g.HEADS)
    w.check_all_used("t5encoder")
    return g.Graph(hidden, None, m.integer("context_length"))
