"""The architecture ``seed_oss``: Seed-OSS 36B (https://github.com/ByteDance-Seed/seed-oss).

The graph is Llama's, with biases on Q, K and V. Rotated pairs are the two halves of a head.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def seed_oss(model: Model) -> g.Graph:
    """Return the graph of a ``seed_oss`` model."""
    m, w = g.Metadata(model, "seed_oss"), g.Parameters.of(model)
    n_ctx, heads, eps = m.integer("context_length"), m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    turn, scale = g.rotation(m, m.n_rotated(heads.size), n_ctx), m.attention_scale(heads.size)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(m.integer("block_count"))):
        x = x + g.self_attention(g.rms_norm(x, layer["attn_norm"], eps), layer, heads, turn, scale=scale)
        x = g.layer_output(x + g.gated_ffn(g.rms_norm(x, layer["post_attention_norm"], eps), layer), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used("seed_oss")
    return g.Graph(hidden, logits, n_ctx)
