"""The architecture ``gemma4``: Gemma 4 (https://ai.google.dev/gemma/docs/core/model_card_4), texts only.

Layers with a window have heads of another size than layers that see all tokens, and rotate them differently. Norms
stand before and after each block, on each head of Q and K, and without weights on V. Rotated pairs are the two halves
of a head. Some of the models have more:

* 31B and 26B-A4B: in layers that see all tokens, values are the keys before norm and rotation.
* E2B and E4B: the last layers use the keys and values of earlier ones, and each token has a smaller embedding for each
  layer, besides the usual one.
* 26B-A4B: each layer has experts beside its dense feed-forward block.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g


def gemma4(model: Model) -> g.Graph:
    """Return the graph of a ``gemma4`` model."""
    m, w = g.Metadata(model, "gemma4"), g.Parameters.of(model)
    n_ctx, n_layer, n_embd = (m.integer(key) for key in ("context_length", "block_count", "embedding_length"))
    n_head, n_kv = m.integer("attention.head_count"), m.integers("attention.head_count_kv", n_layer, low=1)
    n_own = n_layer - m.integer("attention.shared_kv_layers", 0, low=0, high=n_layer - 1)  # layers with their own KV
    routing = g.routing(m) if m.integer("expert_count", 0, low=0) else None
    eps, window = m.number("attention.layer_norm_rms_epsilon", low=0), m.integer("attention.sliding_window")
    final_cap = m.number("final_logit_softcapping", 0.0, low=0, allow_low=True)

    size, local_size = m.head_size(n_head), m.head_size(n_head, "_swa")
    w.tensor("rope_freqs.weight")  # has the factors of `full`; without it, too many numbers would be rotated
    full = g.rotation(m, m.n_rotated(size), n_ctx)
    local = g.plain_rotation(m.number("rope.freq_base_swa", 1e4, low=0), m.n_rotated(local_size, "_swa"))

    layers, is_windowed = list(w.layers(n_layer)), m.flags("attention.sliding_window_pattern", n_layer)
    has_values = any("attn_v" in layer for i, layer in enumerate(layers) if not is_windowed[i])
    is_scaled = any("layer_output_scale" in layer for layer in layers)

    x = g.token_embedding(m, w) * n_embd**0.5
    inputs = inputs_per_layer(x, m, w, n_layer, eps)
    caches: dict[bool, g.Cache] = {}  # of the last layer with a window, and of the last one without
    for i, layer in enumerate(layers):
        n, turn, seen = (local_size, local, window) if is_windowed[i] else (size, full, None)
        h = g.rms_norm(x, layer["attn_norm"], eps)
        q = g.rms_norm(g.heads(g.linear(h, layer["attn_q"]), n_head, n), layer["attn_q_norm"], eps)
        if i < n_own:
            k = v = g.heads(g.linear(h, layer["attn_k"]), n_kv[i], n)
            if is_windowed[i] or has_values:
                v = g.heads(g.linear(h, layer["attn_v"]), n_kv[i], n)
            k = g.rope(g.rms_norm(k, layer["attn_k_norm"], eps), turn)
            caches[is_windowed[i]] = g.cache(k, g.rms_norm(v, None, eps))
        else:
            layer.skip("attn_k.", "attn_k_norm.", "attn_v.")  # files have them, but models do not use them
        if is_windowed[i] not in caches:
            m.fail("attention.shared_kv_layers", f"is {n_layer - n_own}; layer {i} has no earlier layer like it")
        a = g.attention(g.rope(q, turn), caches[is_windowed[i]], 1.0, window=seen)
        x = x + g.rms_norm(g.linear(g.flat(a), layer["attn_output"]), layer["post_attention_norm"], eps)

        x = x + g.rms_norm(_feed_forward(x, layer, routing, eps), layer["post_ffw_norm"], eps)
        if inputs:
            h = g.activation(g.linear(x, layer["inp_gate"]), "gelu_tanh") * inputs[i]
            x = x + g.rms_norm(g.linear(h, layer["proj"]), layer["post_norm"], eps)
        if is_scaled:
            x = g.WeightMul(x, layer.tensor("layer_output_scale.weight", 1))
        x = g.layer_output(x, i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.softcap(g.linear(hidden, g.output_matrix(w)), final_cap)

    w.check_all_used("gemma4")
    return g.Graph(hidden, logits, n_ctx)


def _feed_forward(x: g.Value, layer: g.Parameters, routing: g.Routing | None, eps: float) -> g.Value:
    """Return the dense block, and the sum of it and the experts if there are any, each with its own norms."""
    dense = g.gated_ffn(g.rms_norm(x, layer["ffn_norm"], eps), layer, "gelu_tanh")
    if routing is None:
        return dense
    scaled = g.WeightMul(g.rms_norm(x, None, eps) * x.shape[0] ** -0.5, layer.tensor("ffn_gate_inp.scale", x.shape[0]))
    router = g.Linear(scaled, layer.tensor("ffn_gate_inp.weight", routing.n_expert, x.shape[0]))
    h = g.experts(g.rms_norm(x, layer["pre_ffw_norm_2"], eps), layer, routing, _geglu, router=router)
    return g.rms_norm(dense, layer["post_ffw_norm_1"], eps) + g.rms_norm(h, layer["post_ffw_norm_2"], eps)


def _geglu(gate: g.Value, up: g.Value) -> g.Value:
    return g.activation(gate, "gelu_tanh") * up


def inputs_per_layer(x: g.Value, m: g.Metadata, w: g.Parameters, n_layer: int, eps: float) -> list[g.Value]:
    """Return one small row per layer, from the token and its embedding ``x``; an empty list if the model has none."""
    size = m.integer("embedding_length_per_layer_input", 0, low=0)
    if not size:
        return []
    of_token = g.embedding(
        g.TOKENS, w.of_shape("per_layer_token_embd", w["token_embd"].weight.shape[0], n_layer * size)
    )
    projected = g.linear(x, w["per_layer_model_proj"]) * x.shape[0] ** -0.5
    projected = g.flat(g.rms_norm(g.heads(projected, n_layer, size), w["per_layer_proj_norm"], eps))
    return g.split((projected + of_token * size**0.5) * 2**-0.5, *[size] * n_layer)
