"""The architecture ``stablelm``: StableLM 3B, StableLM 2 (arXiv:2402.17834), Stable Code, StableLM Zephyr.

The graph is Llama's with LayerNorms. Only the first numbers of a head are rotated; pairs are the two halves of them.
StableLM 2 12B has a LayerNorm of its own for each head of Q and K, and adds attention and feed-forward block to the
same input: such files have no ``ffn_norm``. The key ``use_parallel_residual`` is not read, because converters write it
as true for models whose config does not have it.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def stablelm(model: Model) -> g.Graph:
    """Return the graph of a ``stablelm`` model."""
    m, w = g.Metadata(model, "stablelm"), g.Parameters.of(model)
    n_ctx, heads, eps = m.integer("context_length"), m.heads(), m.number("attention.layer_norm_epsilon", low=0)
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx)
    layers = list(w.layers(m.integer("block_count")))
    is_parallel = not any("ffn_norm" in layer for layer in layers)
    has_head_norms = any(name in layer for layer in layers for name in ("attn_q_norm", "attn_k_norm"))

    def norm(x: g.Value, p: g.Parameter) -> g.Value:
        return g.layer_norm(x, p, eps)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(layers):
        h = norm(x, layer["attn_norm"])
        a = g.self_attention(h, layer, heads, turn, norm=norm if has_head_norms else None)
        if not is_parallel:
            h = norm(x + a, layer["ffn_norm"])
        x = g.layer_output(x + a + g.gated_ffn(h, layer), i)
    hidden = norm(x, w["output_norm"])
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used("stablelm")
    return g.Graph(hidden, logits, n_ctx)
