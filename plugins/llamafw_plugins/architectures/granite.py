"""The architectures ``granite``, ``granitemoe``, ``granitehybrid`` and ``minicpm``: Granite 3 and 4, and MiniCPM.

The graph is Llama's (arXiv:2302.13971) with factors on embeddings, branches, scores and logits (arXiv:2408.13359). In
hybrids, layers without KV heads are Mamba-2, and attention may be without positions. Files have the rows of Q and K
permuted, so that rotated pairs are adjacent. MiniCPM (arXiv:2404.06395) has the same factors; old files lack them.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g

MINICPM_EMBEDDING, MINICPM_DEPTH, MINICPM_WIDTH = 12.0, 1.4, 256
"""Of MiniCPM: the factor on embeddings; that on branches times sqrt(n_layer); the width whose logits are not scaled."""


def granite(model: Model) -> g.Graph:
    """Return the graph of a ``granite`` model."""
    return _granite(g.Metadata(model, "granite"))


def granitemoe(model: Model) -> g.Graph:
    """Return the graph of a ``granitemoe`` model, whose feed-forward blocks are mixtures of experts."""
    return _granite(g.Metadata(model, "granitemoe"))


def granitehybrid(model: Model) -> g.Graph:
    """Return the graph of a ``granitehybrid`` model, with or without experts."""
    return _granite(g.Metadata(model, "granitehybrid"))


def minicpm(model: Model) -> g.Graph:
    """Return the graph of a ``minicpm`` model; files without factors are of the first models."""
    m = g.Metadata(model, "minicpm")
    n_layer, n_embd = m.integer("block_count"), m.integer("embedding_length")
    return _granite(m, MINICPM_EMBEDDING, MINICPM_DEPTH / n_layer**0.5, n_embd / MINICPM_WIDTH)


def _granite(m: g.Metadata, *defaults: float) -> g.Graph:
    """Return the graph, given the factors on embeddings, branches and logits that files without them have."""
    w, n_ctx, n_layer = g.Parameters.of(m.model), m.integer("context_length"), m.integer("block_count")
    n_head = m.integer("attention.head_count")
    n_kv, size = m.integers("attention.head_count_kv", n_layer, n_head), m.head_size(n_head)
    eps, scale = m.number("attention.layer_norm_rms_epsilon", low=0), _factor(m, "attention.scale", size**-0.5)
    embedding_scale, residual_scale, logit_scale = (
        _factor(m, f"{key}_scale", default)
        for key, default in zip(("embedding", "residual", "logit"), defaults or (1.0, 1.0, 1.0), strict=True)
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

    w.skip("rope_freqs.", "rope_factors_")
    w.check_all_used(m.architecture)
    return g.Graph(hidden, logits, n_ctx)


def _ffn(h: g.Value, layer: g.Parameters, routing: g.Routing | None) -> g.Value:
    """Return the feed-forward block: the chosen experts, and one that each token uses if the file has it."""
    if routing is None:
        return g.gated_ffn(h, layer)
    chosen = g.experts(h, layer, routing)
    return chosen + g.shared_expert(h, layer) if "ffn_up_shexp" in layer else chosen


def _factor(m: g.Metadata, key: str, default: float) -> float:
    """Return a factor of the model; 0 in a file means the default."""
    return m.number(key, 0.0, low=0, allow_low=True) or default
