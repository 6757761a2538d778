"""The architectures ``lfm2`` and ``lfm2moe``: LFM2 and LFM2.5, hybrids of short convolutions and attention.

Layers without KV heads are convolutions (https://arxiv.org/abs/2511.23404); the others are attention with RMSNorm on
each head of Q and K.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def lfm2(model: Model) -> g.Graph:
    """Return the graph of an ``lfm2`` model."""
    m = g.Metadata(model, "lfm2")
    return _lfm2(m, None, n_dense=m.integer("block_count"))


def lfm2moe(model: Model) -> g.Graph:
    """Return the graph of an ``lfm2moe`` model, which has experts in all layers but the first few."""
    m = g.Metadata(model, "lfm2moe")
    return _lfm2(m, g.routing(m, gating="sigmoid"), m.integer("leading_dense_block_count", 0, low=0))


def _lfm2(m: g.Metadata, routing: g.Routing | None, n_dense: int) -> g.Graph:
    w, n_ctx, n_layer = g.Parameters.of(m.model), m.integer("context_length"), m.integer("block_count")
    n_head, n_kv = m.integer("attention.head_count"), m.integers("attention.head_count_kv", n_layer)
    size, kernel = m.head_size(n_head), m.integer("shortconv.l_cache", low=2)
    eps, turn = m.number("attention.layer_norm_rms_epsilon", low=0), g.rotation(m, m.n_rotated(size), n_ctx)
    if m.integer("attention.sliding_window", 0, low=0):
        m.fail("attention.sliding_window", "is not supported")

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(n_layer)):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        if n_kv[i]:
            q, k, v = g.attention_inputs(h, layer, n_head, n_kv[i], size)
            q = g.rope(g.rms_norm(q, layer["attn_q_norm"], eps), turn)
            k = g.rope(g.rms_norm(k, layer["attn_k_norm"], eps), turn)
            a = g.attention(q, g.cache(k, v), size**-0.5)
            x = x + g.linear(g.flat(a), layer["attn_output"])
        else:
            x = x + g.short_convolution(h, layer, kernel)
        h = g.rms_norm(x, layer["ffn_norm"], eps)
        x = g.layer_output(x + (g.experts(h, layer, routing) if routing and i >= n_dense else g.gated_ffn(h, layer)), i)
    hidden = g.rms_norm(x, w["token_embd_norm"], eps)  # the name in files, although it is the output norm
    logits = g.linear(hidden, g.output_matrix(w))

    w.check_all_used(m.architecture)
    return g.Graph(hidden, logits, n_ctx)
