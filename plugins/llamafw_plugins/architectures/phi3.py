"""The architectures ``phi3`` and ``phimoe``: Phi-3, Phi-3.5, Phi-4, Phi-4-mini, Phi-3.5-MoE (arXiv:2404.14219).

The graph is Llama's; ``phi3`` has Q, K and V in one tensor, gate and up in another. Rotated pairs are the two halves of
a head, or of its first numbers only (Phi-4-mini). Models for 128k tokens have different frequencies for short and long
contexts. A sliding window holds in all layers, as in transformers; llama.cpp ignores it.

``phimoe`` has LayerNorms, and two experts per token, weighted by SparseMixer. llama.cpp computes RMSNorms and a softmax
over the two experts instead. Files lack three numbers of the original's config: ``router_jitter_noise``, for which
SparseMixer has the original's 0.01, and ``short_mscale`` and ``long_mscale``, factors on cosines and sines. In their
place, files have the one that the converter computes from the lengths of the contexts, ``rope.scaling.attn_factor``.
"""

from __future__ import annotations

from collections.abc import Callable

from llamafw import Model
from llamafw import graph as g

Norm = Callable[[g.Value, g.Parameter, float], g.Value]


def phi3(model: Model) -> g.Graph:
    """Return the graph of a ``phi3`` model."""
    m = g.Metadata(model, "phi3")
    if m.integer("expert_count", 0, low=0):
        m.fail("expert_count", "is not supported; Phi models with experts have the architecture 'phimoe'")
    return _phi(m, g.rms_norm, None)


def phimoe(model: Model) -> g.Graph:
    """Return the graph of a ``phimoe`` model."""
    m = g.Metadata(model, "phimoe")
    routing = g.routing(m, gating="sparsemixer", normalised=False)
    if routing.n_used != 2:
        m.fail("expert_used_count", f"is {routing.n_used}; SparseMixer chooses 2 experts")
    return _phi(m, _layer_norm, routing)


def _phi(m: g.Metadata, norm: Norm, routing: g.Routing | None) -> g.Graph:
    """Return the graph, with experts if there is a routing."""
    w, n_ctx, heads = g.Parameters.of(m.model), m.integer("context_length"), m.heads()
    eps = m.number("attention.layer_norm_rms_epsilon", low=0)
    window = m.integer("attention.sliding_window", 0, low=0) or None
    turn = g.rotation(m, m.n_rotated(heads.size), n_ctx)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(m.integer("block_count"))):
        h = norm(x, layer["attn_norm"], eps)
        q, k, v = g.attention_inputs(h, layer, *heads)
        a = g.attention(g.rope(q, turn), g.cache(g.rope(k, turn), v), heads.size**-0.5, window=window)
        x = x + g.linear(g.flat(a), layer["attn_output"])
        h = norm(x, layer["ffn_norm"], eps)
        x = g.layer_output(x + (g.experts(h, layer, routing) if routing else g.gated_ffn(h, layer)), i)
    hidden = norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.", "rope_factors_", "cls.")
    w.check_all_used(m.architecture)
    return g.Graph(hidden, logits, n_ctx)


def _layer_norm(x: g.Value, p: g.Parameter, eps: float) -> g.Value:
    """Return the LayerNorm; GraphError if its bias is missing, which all these models have."""
    if p.bias is None:
        raise g.GraphError(f"the tensor '{p.weight.name.removesuffix('weight')}bias' is missing")
    return g.layer_norm(x, p, eps)
