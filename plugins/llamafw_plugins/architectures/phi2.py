"""The architecture ``phi2``: Phi-1, Phi-1.5 and Phi-2 (arXiv:2306.11644, arXiv:2309.05463).

Attention and the feed-forward block have the same input and are added together. Norms are LayerNorms, and all matrices
have biases, also the output matrix. Only the first numbers of a head are rotated; pairs are the two halves of them.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def phi2(model: Model) -> g.Graph:
    """Return the graph of a ``phi2`` model."""
    m, w = g.Metadata(model, "phi2"), g.Parameters.of(model)
    n_ctx, heads, eps = m.integer("context_length"), m.heads(), m.number("attention.layer_norm_epsilon", low=0)
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(m.integer("block_count"))):
        h = g.layer_norm(x, layer["attn_norm"], eps)
        a = g.self_attention(h, layer, heads, turn)
        x = g.layer_output(x + a + g.plain_ffn(h, layer, "gelu_tanh"), i)
    hidden = g.layer_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used("phi2")
    return g.Graph(hidden, logits, n_ctx)
