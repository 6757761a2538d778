"""The architectures ``granite``, ``granitemoe`` and ``granitehybrid``: Granite 3 and 4.

The graph is Llama's (arXiv:2302.13971) with factors on embeddings, branches, scores and logits (arXiv:2408.13359). In
hybrids, layers without KV heads are Mamba-2, and attention may be without positions. Files have the rows of Q and K
permuted, so that rotated pairs are adjacent.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def granite(model: Model) -> g.Graph:
    """Return the graph of a ``granite`` model."""
    return _granite(g.Metadata(model, "granite"))


def granitemoe(model: Model) -> g.Graph:
    """Return the graph of a ``granitemoe`` model, whose feed-forward blocks are mixtures of experts."""
    return _granite(g.Metadata(model, "granitemoe"))


def granitehybrid(model: Model) -> g.Graph:
    """Return the graph of a ``granitehybrid`` model, with or without experts."""
    return _granite(g.Metadata(model, "granitehybrid"))


def _granite(m: g.Metadata) -> g.Graph:
    w, n_ctx, n_layer = g.Parameters.of(m.model), m.integer("context_length"), m.integer("block_count")
    n_head = m.integer("attention.head_count")
    n_kv, size = m.integers("attention.head_count_kv", n_layer, n_head), m.head_size(n_head)
    eps, scale = m.number("attention.layer_norm_rms_epsilon", low=0), _factor(m, "attention.scale", size**-0.5)
    embedding_scale, residual_scale, logit_scale = (
        _factor(m, f"{key}_scale", 1.0) for key in ("embedding", "residual", "logit")
    )
    sizes = None if all(n_kv) else g.state_sizes(m)
    routing = g.routing(m) if m.integer("expert_count", 0, low=0) else None
    turn = None
    if m.flag("rope.scaling.finetuned", True):
        turn = g.rotation(m, m.n_rotated(size), n_ctx, interleaved=True)

    x = g.token_embedding(m, w) * embedding_scale
    for i, layer in enumerate(w.layers(n_layer)):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        if sizes and not n_kv[i]:
            h = g.mamba2(h, layer, sizes, eps)
        else:
            q, k, v = g.attention_inputs(h, layer, n_head, n_kv[i], size)
            q, k = (g.rope(part, turn) if turn else part for part in (q, k))
            h = g.linear(g.flat(g.attention(q, g.cache(k, v), scale)), layer["attn_output"])
        x = x + h * residual_scale
        h = g.rms_norm(x, layer["ffn_norm"], eps)
        x = g.layer_output(x + _ffn(h, layer, routing) * residual_scale, i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w)) * (1 / logit_scale)

    w.skip("rope_freqs.")
    w.check_all_used(m.architecture)
    return g.Graph(hidden, logits, n_ctx)


def _ffn(h: g.Value, layer: g.Parameters, routing: g.Routing | None) -> g.Value:
    """Return the feed-forward block: the chosen experts, and one that each token uses if the file has it."""
    if routing is None:
        return g.gated_ffn(h, layer)
    chosen = g.experts(h, layer, routing)
    return chosen + g.gated_ffn(h, layer, suffix="_shexp") if "ffn_up_shexp" in layer else chosen


def _factor(m: g.Metadata, key: str, default: float) -> float:
    """Return a factor of the model; 0 in a file means the default."""
    return m.number(key, 0.0, low=0, allow_low=True) or default
