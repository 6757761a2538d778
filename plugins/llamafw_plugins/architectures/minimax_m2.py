"""The architecture ``minimax-m2``: MiniMax M2 and M2.x (https://huggingface.co/MiniMaxAI/MiniMax-M2).

Queries and keys are normalised over all heads together. The first half of each head is rotated; rotated pairs are its
two halves. Feed-forward blocks are mixtures of experts.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def minimax_m2(model: Model) -> g.Graph:
    """Return the graph of a ``minimax-m2`` model."""
    m, w = g.Metadata(model, "minimax-m2"), g.Parameters.of(model)
    n_ctx, heads, eps = m.integer("context_length"), m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    routing, turn = g.routing(m, gating="sigmoid"), g.rotation(m, m.n_rotated(heads.size), n_ctx)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(m.integer("block_count"))):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        q, k, v = g.attention_inputs(h, layer, *heads)
        q = g.heads(g.rms_norm(g.flat(q), layer["attn_q_norm"], eps), heads.n)
        k = g.heads(g.rms_norm(g.flat(k), layer["attn_k_norm"], eps), heads.n_kv)
        a = g.attention(g.rope(q, turn), g.cache(g.rope(k, turn), v), heads.size**-0.5)
        x = x + g.linear(g.flat(a), layer["attn_output"])
        x = g.layer_output(x + g.experts(g.rms_norm(x, layer["ffn_norm"], eps), layer, routing), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used("minimax-m2")
    return g.Graph(hidden, logits, n_ctx)
