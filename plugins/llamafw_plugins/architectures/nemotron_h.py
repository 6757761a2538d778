"""The architectures ``nemotron_h`` and ``nemotron_h_moe``: Nemotron-H (arXiv:2504.03624), Nano 2 and Nemotron 3.

Each layer is one block: Mamba-2, attention without positions, or a feed-forward block. Feed-forward blocks and
experts have no gate.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def nemotron_h(model: Model) -> g.Graph:
    """Return the graph of a ``nemotron_h`` model."""
    return _nemotron_h(g.Metadata(model, "nemotron_h"), None)


def nemotron_h_moe(model: Model) -> g.Graph:
    """Return the graph of a ``nemotron_h_moe`` model, whose feed-forward blocks are mixtures of experts."""
    m = g.Metadata(model, "nemotron_h_moe")
    return _nemotron_h(m, g.routing(m, gating="sigmoid", normalised=False))


def _nemotron_h(m: g.Metadata, routing: g.Routing | None) -> g.Graph:
    w, n_ctx = g.Parameters.of(m.model), m.integer("context_length")
    n_layer, sizes = g.layer_count(m, w), g.state_sizes(m)
    n_head, n_kv, n_ff = (
        m.integers(key, n_layer) for key in ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
    )
    size, eps = m.head_size(max(n_head)), m.number("attention.layer_norm_rms_epsilon", low=0)

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(n_layer)):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        if n_ff[i]:
            x = x + (_experts(h, layer, routing) if routing else g.plain_ffn(h, layer, "relu_squared"))
        elif n_kv[i]:
            q, k, v = g.attention_inputs(h, layer, n_head[i], n_kv[i], size)
            x = x + g.linear(g.flat(g.attention(q, g.cache(k, v), size**-0.5)), layer["attn_output"])
        else:
            x = x + g.mamba2(h, layer, sizes, eps)
        x = g.layer_output(x, i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.check_all_used(m.architecture)
    return g.Graph(hidden, logits, n_ctx)


def _experts(h: g.Value, layer: g.Parameters, routing: g.Routing) -> g.Value:
    """Return the chosen experts and one that each token uses.

    If the file has ``ffn_latent_down`` and ``ffn_latent_up``, the chosen ones compute in a smaller space
    (arXiv:2512.20856).
    """
    chosen, weights = g.route(h, layer, routing)
    latent = g.linear(h, layer["ffn_latent_down"]) if "ffn_latent_down" in layer else h
    up, down = (g.expert_parameter(layer, name, routing) for name in ("ffn_up_exps", "ffn_down_exps"))
    hidden = g.activation(g.expert_linear(latent, chosen, up), "relu_squared")
    y = g.weighted_sum(g.expert_linear(hidden, chosen, down), weights)
    if "ffn_latent_down" in layer:
        y = g.linear(y, layer["ffn_latent_up"])
    return y + g.plain_ffn(h, layer, "relu_squared", suffix="_shexp")
