"""The architectures ``glm4`` and ``glm4moe``: GLM-4-0414, GLM-4.5, 4.6 and 4.7, and their relatives, texts only.

The first half of each head is rotated. In ``glm4``, norms stand before and after each block, and rotated pairs are
adjacent, except in files of models for images, whose rows of Q and K conversion permutes. ``glm4moe``
(arXiv:2508.06471) has norms before the blocks only, and many small experts after the first layers; rotated pairs are
the two halves of the rotated part.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def glm4(model: Model) -> g.Graph:
    """Return the graph of a ``glm4`` model."""
    m, w = g.Metadata(model, "glm4"), g.Parameters.of(model)
    n_ctx, heads, eps = m.integer("context_length"), m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx, interleaved=not _has_sections(m))

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(g.layer_count(m, w))):
        h = g.self_attention(g.rms_norm(x, layer["attn_norm"], eps), layer, heads, turn)
        x = x + g.rms_norm(h, layer["post_attention_norm"], eps)
        h = g.gated_ffn(g.rms_norm(x, layer["ffn_norm"], eps), layer)
        x = g.layer_output(x + g.rms_norm(h, layer["post_ffw_norm"], eps), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used("glm4")
    return g.Graph(hidden, logits, n_ctx)


def glm4moe(model: Model) -> g.Graph:
    """Return the graph of a ``glm4moe`` model."""
    m, w = g.Metadata(model, "glm4moe"), g.Parameters.of(model)
    n_ctx, heads, eps = m.integer("context_length"), m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    n_dense, n_shared = (m.integer(key, 0, low=0) for key in ("leading_dense_block_count", "expert_shared_count"))
    routing = g.routing(m, gating="sigmoid", normalised=False)
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx)
    layers = list(w.layers(n_layer := g.layer_count(m, w)))
    has_norms = any(name in layer for layer in layers for name in ("attn_q_norm", "attn_k_norm"))
    norm = (lambda x, p: g.rms_norm(x, p, eps)) if has_norms else None

    def block(x: g.Value, layer: g.Parameters, *, dense: bool = False) -> g.Value:
        """Return the output of a layer."""
        x = x + g.self_attention(g.rms_norm(x, layer["attn_norm"], eps), layer, heads, turn, norm=norm)
        h = g.rms_norm(x, layer["post_attention_norm"], eps)
        if dense:
            h = g.gated_ffn(h, layer)
        elif n_shared:
            h = g.experts(h, layer, routing) + g.shared_expert(h, layer)
        else:
            h = g.experts(h, layer, routing)
        return x + h

    x = g.token_embedding(m, w)
    for i, layer in enumerate(layers):
        x = g.layer_output(block(x, layer, dense=i < n_dense), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used("glm4moe")
    return g.Graph(hidden, logits, n_ctx, g.prediction(m, w, n_layer, eps, block))


def _has_sections(m: g.Metadata) -> bool:
    """Return whether the file has sections of positions (M-RoPE), which are all equal in texts."""
    return m.has("rope.dimension_sections") and any(m.integers("rope.dimension_sections", 4))
