"""The architecture ``hunyuan-dense``: Hunyuan 0.5B to 7B (https://github.com/Tencent-Hunyuan/Hunyuan-7B).

The graph is Llama's, with RMSNorm on each head of Q and K, after the rotation. Rotated pairs are the two halves of a
head. Files have the scaling of the context in the base of the frequencies.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def hunyuan_dense(model: Model) -> g.Graph:
    """Return the graph of a ``hunyuan-dense`` model."""
    m, w = g.Metadata(model, "hunyuan-dense"), g.Parameters.of(model)
    n_ctx, heads, eps = m.integer("context_length"), m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(m.integer("block_count"))):
        q, k, v = g.attention_inputs(g.rms_norm(x, layer["attn_norm"], eps), layer, *heads)
        q = g.rms_norm(g.rope(q, turn), layer["attn_q_norm"], eps)
        k = g.rms_norm(g.rope(k, turn), layer["attn_k_norm"], eps)
        a = g.attention(q, g.cache(k, v), heads.size**-0.5)
        x = x + g.linear(g.flat(a), layer["attn_output"])
        x = g.layer_output(x + g.gated_ffn(g.rms_norm(x, layer["ffn_norm"], eps), layer), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used("hunyuan-dense")
    return g.Graph(hidden, logits, n_ctx)
