"""The architecture ``olmo2``: OLMo 2 (arXiv:2501.00656) and OLMo 3.

It differs from Llama in three ways: norms stand after each block instead of before it, all heads of Q together and all
heads of K together have a norm, and rotary positions pair the two halves of a head. In OLMo 3, three of four layers see
only a window. Metadata keys have the prefix ``olmo2.``, see
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

from llamafw import Model, Register, hookimpl
from llamafw import graph as g

requires_api = ">=1.0,<2"


def olmo2(model: Model) -> g.Graph:
    """Return the graph of an ``olmo2`` model."""
    m, w = g.Metadata(model, "olmo2"), g.Parameters.of(model)
    n_ctx, n_layer = m.integer("context_length"), m.integer("block_count")
    heads, eps = m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    window = m.integer("attention.sliding_window", 0, low=0)  # 0: all layers see all tokens
    is_windowed = m.windowed_layers(n_layer, 4) if window else [False] * n_layer
    full = g.rotation(m, heads.size, n_ctx)
    local = g.plain_rotation(m.number("rope.freq_base", 1e4, low=0), heads.size)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(n_layer)):
        turn, seen = (local, window) if is_windowed[i] else (full, None)
        q = g.rms_norm(g.linear(x, layer["attn_q"]), layer["attn_q_norm"], eps)
        k = g.rms_norm(g.linear(x, layer["attn_k"]), layer["attn_k_norm"], eps)
        q, k = g.rope(g.heads(q, heads.n, heads.size), turn), g.rope(g.heads(k, heads.n_kv, heads.size), turn)
        v = g.heads(g.linear(x, layer["attn_v"]), heads.n_kv, heads.size)
        a = g.linear(g.flat(g.attention(q, g.cache(k, v), heads.size**-0.5, window=seen)), layer["attn_output"])
        x = x + g.rms_norm(a, layer["post_attention_norm"], eps)
        x = g.layer_output(x + g.rms_norm(g.gated_ffn(x, layer), layer["post_ffw_norm"], eps), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))
    w.check_all_used("olmo2")
    return g.Graph(hidden, logits, n_ctx)


@hookimpl
def register_architectures(register: Register) -> None:
    """Register the architecture ``olmo2``."""
    register("olmo2", olmo2)
