"""The architectures ``qwen3`` and ``qwen3moe``: Qwen3 (arXiv:2505.09388), its embedding models, rerankers and experts.

The graph is Llama's, with RMSNorm on each head of Q and K. Rotated pairs are the two halves of a head.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def qwen3(model: Model) -> g.Graph:
    """Return the graph of a ``qwen3`` model."""
    return _qwen3(g.Metadata(model, "qwen3"), None)


def qwen3moe(model: Model) -> g.Graph:
    """Return the graph of a ``qwen3moe`` model, whose feed-forward blocks are mixtures of experts."""
    m = g.Metadata(model, "qwen3moe")
    return _qwen3(m, g.routing(m))


def _qwen3(m: g.Metadata, routing: g.Routing | None) -> g.Graph:
    w, n_ctx, n_layer = g.Parameters.of(m.model), m.integer("context_length"), m.integer("block_count")
    heads, eps = m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(n_layer)):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        q, k, v = g.attention_inputs(h, layer, *heads)
        q = g.rope(g.rms_norm(q, layer["attn_q_norm"], eps), turn)
        k = g.rope(g.rms_norm(k, layer["attn_k_norm"], eps), turn)
        a = g.attention(q, g.cache(k, v), heads.size**-0.5)
        x = x + g.linear(g.flat(a), layer["attn_output"])
        h = g.rms_norm(x, layer["ffn_norm"], eps)
        x = g.layer_output(x + (g.experts(h, layer, routing) if routing else g.gated_ffn(h, layer)), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.", "cls.")
    w.check_all_used(m.architecture)
    return g.Graph(hidden, logits, n_ctx)
