"""The architecture ``gemma2``: Gemma 2 (arXiv:2408.00118).

Every second layer sees all tokens, the others a window. Norms stand before and after each block, and scores and logits
are limited with tanh. Files have 1 added to the weights of norms. Rotated pairs are the two halves of a head.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g

N_LAYER_27B = 46
"""Number of layers of the 27B model, whose files do not say that its scores are scaled differently."""


def gemma2(model: Model) -> g.Graph:
    """Return the graph of a ``gemma2`` model."""
    m, w = g.Metadata(model, "gemma2"), g.Parameters.of(model)
    n_ctx, n_layer, n_embd = (m.integer(key) for key in ("context_length", "block_count", "embedding_length"))
    heads, eps = m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    window, is_windowed = m.integer("attention.sliding_window", 4096), m.windowed_layers(n_layer, 2)
    cap = m.number("attn_logit_softcapping", 50.0, low=0, allow_low=True) or None
    final_cap = m.number("final_logit_softcapping", 30.0, low=0, allow_low=True)
    scale = (n_embd / heads.n if n_layer == N_LAYER_27B else heads.size) ** -0.5
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx)

    x = g.token_embedding(m, w) * n_embd**0.5
    for i, layer in enumerate(w.layers(n_layer)):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        q, k, v = g.attention_inputs(h, layer, *heads)
        past = g.cache(g.rope(k, turn), v)
        a = g.attention(g.rope(q, turn), past, scale, window=window if is_windowed[i] else None, softcap=cap)
        x = x + g.rms_norm(g.linear(g.flat(a), layer["attn_output"]), layer["post_attention_norm"], eps)
        h = g.gated_ffn(g.rms_norm(x, layer["ffn_norm"], eps), layer, "gelu_tanh")
        x = g.layer_output(x + g.rms_norm(h, layer["post_ffw_norm"], eps), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.softcap(g.linear(hidden, g.output_matrix(w)), final_cap)

    w.skip("rope_freqs.", "cls.")
    w.check_all_used("gemma2")
    return g.Graph(hidden, logits, n_ctx)
