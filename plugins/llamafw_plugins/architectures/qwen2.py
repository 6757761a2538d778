"""The architectures ``qwen2`` and ``qwen2moe``: Qwen2, Qwen2.5 (arXiv:2412.15115), QwQ, distilled DeepSeek-R1 models.

The graph is Llama's, with biases on Q, K and V. Rotated pairs are the two halves of a head. In ``qwen2moe``
(Qwen1.5-MoE and Qwen2-57B-A14B), each token uses some of many experts, and one more with a gate.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def qwen2(model: Model) -> g.Graph:
    """Return the graph of a ``qwen2`` model."""
    return _qwen2(g.Metadata(model, "qwen2"), None)


def qwen2moe(model: Model) -> g.Graph:
    """Return the graph of a ``qwen2moe`` model."""
    m = g.Metadata(model, "qwen2moe")
    return _qwen2(m, g.routing(m, normalised=False))


def _qwen2(m: g.Metadata, routing: g.Routing | None) -> g.Graph:
    """Return the graph, with experts if there is a routing."""
    w, n_ctx, heads = g.Parameters.of(m.model), m.integer("context_length"), m.heads()
    eps = m.number("attention.layer_norm_rms_epsilon", low=0)
    if m.integer("attention.sliding_window", 0, low=0):
        m.fail("attention.sliding_window", "is not supported")
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(m.integer("block_count"))):
        x = x + g.self_attention(g.rms_norm(x, layer["attn_norm"], eps), layer, heads, turn)
        h = g.rms_norm(x, layer["ffn_norm"], eps)
        if routing:
            h = g.experts(h, layer, routing) + g.shared_expert(h, layer, is_gated=True)
        else:
            h = g.gated_ffn(h, layer)
        x = g.layer_output(x + h, i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.", "cls.")
    w.check_all_used(m.architecture)
    return g.Graph(hidden, logits, n_ctx)
