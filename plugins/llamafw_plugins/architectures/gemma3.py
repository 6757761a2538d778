"""The architecture ``gemma3``: Gemma 3 (arXiv:2503.19786), MedGemma, TranslateGemma, FunctionGemma; texts only.

Every sixth layer sees all tokens, the others a window, with faster rotations. Norms stand before and after each block,
and on each head of Q and K. Files have 1 added to the weights of norms. Rotated pairs are the two halves of a head.

``gemma-embedding``, EmbeddingGemma (arXiv:2509.20354), is an encoder: each token sees the whole text, or half a window
on each side, and there are no logits.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g

N_LAYER_27B = 62
"""Number of layers of the 27B model, whose files do not say that its scores are scaled differently."""


def gemma3(model: Model) -> g.Graph:
    """Return the graph of a ``gemma3`` model."""
    return _gemma3(g.Metadata(model, "gemma3"))


def gemma_embedding(model: Model) -> g.Graph:
    """Return the graph of a ``gemma-embedding`` model."""
    return _gemma3(g.Metadata(model, "gemma-embedding"), is_encoder=True)


def _gemma3(m: g.Metadata, *, is_encoder: bool = False) -> g.Graph:
    w = g.Parameters.of(m.model)
    n_ctx, n_layer, n_embd = (m.integer(key) for key in ("context_length", "block_count", "embedding_length"))
    heads, eps = m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    if m.number("attn_logit_softcapping", 0.0, low=0, allow_low=True):
        m.fail("attn_logit_softcapping", "is not supported")
    window = m.integer("attention.sliding_window", 0, low=0)  # 0: all layers see all tokens
    is_windowed = m.windowed_layers(n_layer, 6) if window else [False] * n_layer
    final_cap = m.number("final_logit_softcapping", 0.0, low=0, allow_low=True)
    scale = (n_embd / heads.n if n_layer == N_LAYER_27B and not is_encoder else heads.size) ** -0.5
    n_rot = m.n_rotated(heads.size)
    full, local = g.rotation(m, n_rot, n_ctx), g.plain_rotation(m.number("rope.freq_base_swa", 1e4, low=0), n_rot)

    x = g.token_embedding(m, w) * n_embd**0.5
    for i, layer in enumerate(w.layers(n_layer)):
        turn, seen = (local, window) if is_windowed[i] else (full, None)
        h = g.rms_norm(x, layer["attn_norm"], eps)
        q, k, v = g.attention_inputs(h, layer, *heads)
        q = g.rope(g.rms_norm(q, layer["attn_q_norm"], eps), turn)
        k = g.rope(g.rms_norm(k, layer["attn_k_norm"], eps), turn)
        past = g.whole_text(k, v) if is_encoder else g.cache(k, v)
        a = g.attention(q, past, scale, window=seen, window_kind="symmetric" if is_encoder else "sliding")
        x = x + g.rms_norm(g.linear(g.flat(a), layer["attn_output"]), layer["post_attention_norm"], eps)
        h = g.gated_ffn(g.rms_norm(x, layer["ffn_norm"], eps), layer, "gelu_tanh")
        x = g.layer_output(x + g.rms_norm(h, layer["post_ffw_norm"], eps), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = None if is_encoder else g.softcap(g.linear(hidden, g.output_matrix(w)), final_cap)

    w.skip("rope_freqs.", *(("output.", *g.HEADS) if is_encoder else ("cls.",)))
    w.check_all_used(m.architecture)
    return g.Graph(hidden, logits, n_ctx)
