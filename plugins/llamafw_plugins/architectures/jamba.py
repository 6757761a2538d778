"""The architecture ``jamba``: Jamba 1.5 to 1.7 and Jamba Reasoning (arXiv:2403.19887, arXiv:2408.12570).

Layers without KV heads are Mamba-1 with norms of steps, keys and queries; the others are attention without positions.
Some layers have experts, the others a dense feed-forward block.
"""

from __future__ import annotations

from collections.abc import Callable

from llamafw import Model
from llamafw import graph as g

EXPERTS = ("ffn_gate_inp", "ffn_up_exps", "ffn_down_exps")
"""A layer that has one of these has experts, and must have all of them; metadata do not say which ones do."""


def jamba(model: Model) -> g.Graph:
    """Return the graph of a ``jamba`` model."""
    m, w = g.Metadata(model, "jamba"), g.Parameters.of(model)
    n_layer, n_head = m.integer("block_count"), m.integer("attention.head_count")
    n_kv, size = m.integers("attention.head_count_kv", n_layer), m.head_size(n_head)
    eps, sizes = m.number("attention.layer_norm_rms_epsilon", low=0), g.scan_sizes(m)
    routing = g.routing(m, normalised=False) if m.integer("expert_count", 0, low=0) > 1 else None

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(n_layer)):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        if n_kv[i]:
            q, k, v = g.attention_inputs(h, layer, n_head, n_kv[i], size)
            x = x + g.linear(g.flat(g.attention(q, g.cache(k, v), size**-0.5)), layer["attn_output"])
        else:
            x = x + g.mamba(h, layer, sizes, _norm(layer, eps))
        h = g.rms_norm(x, layer["ffn_norm"], eps)
        has_experts = any(name in layer for name in EXPERTS)
        x = x + (g.experts(h, layer, routing) if routing and has_experts else g.gated_ffn(h, layer))
        x = g.layer_output(x, i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.check_all_used("jamba")
    return g.Graph(hidden, logits, m.integer("context_length"))


def _norm(layer: g.Parameters, eps: float) -> Callable[[g.Value, str], g.Value]:
    """Return the function that normalises the steps, keys or queries of a layer."""
    return lambda part, name: g.rms_norm(part, layer[f"ssm_{name}_norm"], eps)
