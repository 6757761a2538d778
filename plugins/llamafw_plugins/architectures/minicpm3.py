"""The architecture ``minicpm3``: MiniCPM3-4B (https://huggingface.co/openbmb/MiniCPM3-4B).

Attention is multi-head latent attention (arXiv:2405.04434), whose rotated pairs are the two halves of the rotated part.
Embeddings, branches and logits have MiniCPM's factors (arXiv:2404.06395), which files do not have.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g

EMBEDDING, DEPTH, WIDTH = 12.0, 1.4, 256
"""The factor on embeddings; that on branches times sqrt(n_layer); the width whose logits are not scaled."""

LATENT_EPS = 1e-6
"""Epsilon of the norms of latent rows in the original. llama.cpp takes that of the other norms."""


def minicpm3(model: Model) -> g.Graph:
    """Return the graph of a ``minicpm3`` model."""
    m, w = g.Metadata(model, "minicpm3"), g.Parameters.of(model)
    n_ctx, n_layer, n_embd = (m.integer(key) for key in ("context_length", "block_count", "embedding_length"))
    eps, sizes = m.number("attention.layer_norm_rms_epsilon", low=0), _sizes(m)
    turn, residual_scale = g.rotation(m, sizes.rotated, n_ctx), DEPTH / n_layer**0.5

    x = g.token_embedding(m, w) * EMBEDDING
    for i, layer in enumerate(w.layers(n_layer)):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        q = g.linear(g.rms_norm(g.linear(h, layer["attn_q_a"]), layer["attn_q_a_norm"], LATENT_EPS), layer["attn_q_b"])
        q = g.heads(q, sizes.n_head, sizes.key)
        a = g.latent_attention(h, q, layer, sizes, turn, sizes.key**-0.5, LATENT_EPS)
        x = x + g.linear(a, layer["attn_output"]) * residual_scale
        x = g.layer_output(x + g.gated_ffn(g.rms_norm(x, layer["ffn_norm"], eps), layer) * residual_scale, i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w)) * (WIDTH / n_embd)

    w.skip("rope_freqs.", "rope_factors_")
    w.check_all_used("minicpm3")
    return g.Graph(hidden, logits, n_ctx)


def _sizes(m: g.Metadata) -> g.LatentSizes:
    """Return the sizes of heads; values have the usual size of heads if the file does not say it."""
    n_head, key = m.integer("attention.head_count"), m.integer("attention.key_length")
    value = m.integer("attention.value_length", m.integer("embedding_length") // n_head)
    rotated = m.n_rotated(key)
    if rotated == key:
        m.fail("rope.dimension_count", f"is {rotated}; it must be less than the head size")
    return g.LatentSizes(n_head, key - rotated, rotated, value, m.integer("attention.kv_lora_rank"))
