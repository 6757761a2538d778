"""The architecture ``gemma3n``: Gemma 3n E2B and E4B (https://ai.google.dev/gemma/docs/gemma-3n), texts only.

Every fifth layer sees all tokens, the others a window, with faster rotations. Norms stand before and after each block,
on each head of Q and K, and without weights on V. Rotated pairs are the two halves of a head. Besides:

* Several streams run side by side. Each layer predicts all of them, computes one, and corrects all by the error of its
  prediction (AltUp, arXiv:2301.13310).
* A matrix of low rank is added to attention (LAuReL, arXiv:2411.07501).
* In the first layers, only the largest numbers of a feed-forward block pass its gate.
* Besides its embedding, each token has a smaller one for each layer, which is added there.
* The last layers use the keys and values of earlier ones.
"""

from __future__ import annotations

import math

from llamafw import Model
from llamafw import graph as g
from llamafw_plugins.architectures.gemma4 import inputs_per_layer

N_OWN = 20  # layers with their own keys and values, in both models
TINY = 1e-30  # keeps the division by the length of a row of zeros finite


def gemma3n(model: Model) -> g.Graph:
    """Return the graph of a ``gemma3n`` model."""
    m, w = g.Metadata(model, "gemma3n"), g.Parameters.of(model)
    n_ctx, n_layer, n_embd = (m.integer(key) for key in ("context_length", "block_count", "embedding_length"))
    heads, eps = m.heads(), m.number("attention.layer_norm_rms_epsilon", low=0)
    n_own = n_layer - m.integer("attention.shared_kv_layers", max(n_layer - N_OWN, 0), low=0, high=n_layer - 1)
    window, is_windowed = m.integer("attention.sliding_window"), m.windowed_layers(n_layer, 5)
    n_ff, n_streams = m.integers("feed_forward_length", n_layer, low=1), m.integer("altup.num_inputs", 4, low=2)
    active = m.integer("altup.active_idx", 0, low=0, high=n_streams - 1)
    cutoffs, final_cap = _cutoffs(m, n_layer), m.number("final_logit_softcapping", 30.0, low=0, allow_low=True)
    n_rot = m.n_rotated(heads.size)
    full, local = g.rotation(m, n_rot, n_ctx), g.plain_rotation(m.number("rope.freq_base_swa", 1e4, low=0), n_rot)

    x = g.token_embedding(m, w) * n_embd**0.5
    inputs = inputs_per_layer(x, m, w, n_layer, eps)
    if not inputs:
        m.fail("embedding_length_per_layer_input", "must be greater than 0")
    others = g.linear(g.Repeat(g.heads(x, 1), n_streams - 1), w.of_shape("altup_proj", n_streams - 1, n_embd, n_embd))
    streams = [x, *_rows(g.rms_norm(others, None, TINY) * _length(x))]
    caches: dict[bool, g.Cache] = {}  # of the last layer with a window, and of the last one without
    for i, layer in enumerate(w.layers(n_layer)):
        turn, seen = (local, window) if is_windowed[i] else (full, None)
        streams = _predict(streams, active, layer, eps)
        x = streams[active]
        h = g.rms_norm(x, layer["attn_norm"], eps)
        low_rank = g.linear(g.linear(h, layer["laurel_l"]), layer["laurel_r"])
        low_rank = h + g.rms_norm(low_rank, layer["laurel_post_norm"], eps)

        q = g.rms_norm(g.heads(g.linear(h, layer["attn_q"]), heads.n, heads.size), layer["attn_q_norm"], eps)
        if i < n_own:
            k, v = (g.heads(g.linear(h, layer[f"attn_{part}"]), heads.n_kv, heads.size) for part in "kv")
            k = g.rope(g.rms_norm(k, layer["attn_k_norm"], eps), turn)
            caches[is_windowed[i]] = g.cache(k, g.rms_norm(v, None, eps))
        else:
            layer.skip("attn_k.", "attn_k_norm.", "attn_v.")  # files have them, but models do not use them
        if is_windowed[i] not in caches:
            m.fail("attention.shared_kv_layers", f"is {n_layer - n_own}; layer {i} has no earlier layer like it")
        a = g.attention(g.rope(q, turn), caches[is_windowed[i]], 1.0, window=seen)
        a = g.rms_norm(g.linear(g.flat(a), layer["attn_output"]), layer["post_attention_norm"], eps)
        h = (x + a + low_rank) * 2**-0.5
        y = h + g.rms_norm(_feed_forward(h, layer, n_ff[i], cutoffs[i], eps), layer["post_ffw_norm"], eps)

        streams = _correct(streams, y, active, layer, eps)
        y = g.WeightMul(streams[active], layer.tensor("altup_correct_scale.weight", n_embd))
        y = g.activation(g.linear(y, layer["inp_gate"]), "gelu_tanh") * inputs[i]
        y = g.rms_norm(g.linear(y, layer["proj"]), layer["post_norm"], eps)
        streams = [g.layer_output(streams[0], i), *(stream + y for stream in streams[1:])]

    merged = w.of_shape("altup_unembd_proj", n_streams - 1, n_embd, n_embd)
    others = g.linear(g.heads(g.concat(*streams[1:]), n_streams - 1), merged)
    x = streams[0]
    for row in _rows(g.rms_norm(others, None, TINY) * _length(streams[0])):
        x = x + row
    hidden = g.rms_norm(x * (1 / n_streams), w["output_norm"], eps)
    logits = g.softcap(g.linear(hidden, g.output_matrix(w)), final_cap)

    w.check_all_used("gemma3n")
    return g.Graph(hidden, logits, n_ctx)


def _predict(streams: list[g.Value], active: int, layer: g.Parameters, eps: float) -> list[g.Value]:
    """Return each stream plus a weighted sum of all streams, with weights that depend on the active one."""
    n, stacked = len(streams), g.heads(g.concat(*streams), len(streams))
    weights = g.linear(_router(streams[active], layer, n, eps), layer.of_shape("altup_predict_coef", n * n, n))
    return [
        stream + g.weighted_sum(stacked, row) for stream, row in zip(streams, g.split(weights, *[n] * n), strict=True)
    ]


def _correct(streams: list[g.Value], y: g.Value, active: int, layer: g.Parameters, eps: float) -> list[g.Value]:
    """Return each predicted stream corrected by the error of the active one, whose true value is ``y``."""
    n, error = len(streams), y + streams[active] * -1.0
    weights = g.linear(_router(y, layer, n, eps), layer.of_shape("altup_correct_coef", n, n))
    return [stream + error + error * one for stream, one in zip(streams, g.split(weights, *[1] * n), strict=True)]


def _router(x: g.Value, layer: g.Parameters, n_streams: int, eps: float) -> g.Value:
    """Return one number per stream, from −1 to 1."""
    normed = g.rms_norm(x, layer["altup_router_norm"], eps) * (1 / x.shape[0])
    return g.activation(g.linear(normed, layer.of_shape("altup_router", n_streams, x.shape[0])), "tanh")


def _feed_forward(x: g.Value, layer: g.Parameters, n_ff: int, cutoff: float | None, eps: float) -> g.Value:
    """Return the gated feed-forward block, whose gate lets numbers above a cutoff pass if there is one."""
    h = g.rms_norm(x, layer["ffn_norm"], eps)
    gate = g.linear(h, layer.of_shape("ffn_gate", n_ff, x.shape[0]))
    if cutoff is not None:
        gate = _above(gate, cutoff)
    return g.linear(g.activation(gate, "gelu_tanh") * g.linear(h, layer["ffn_up"]), layer["ffn_down"])


def _above(x: g.Value, cutoff: float) -> g.Value:
    """Return ``max(0, x − mean − cutoff · deviation)``, with mean and standard deviation of the row."""
    normed = g.layer_norm(x, None, TINY)
    deviation = g.weighted_sum(g.heads(normed, x.shape[0]), x) * (1 / x.shape[0])
    constant = g.Clamp(normed, cutoff, cutoff)
    return (g.Clamp(normed, cutoff, math.inf) + constant * -1.0) * deviation


def _length(x: g.Value) -> g.Value:
    """Return the root of the mean square of a row, ``(1,)``."""
    return g.weighted_sum(g.heads(g.rms_norm(x, None, TINY), x.shape[0]), x) * (1 / x.shape[0])


def _rows(x: g.Value) -> list[g.Value]:
    """Return the rows of a value of shape ``(n, size)``."""
    return g.split(g.flat(x), *[x.shape[1]] * x.shape[0])


def _cutoffs(m: g.Metadata, n_layer: int) -> list[float | None]:
    """Return the cutoff of each layer in standard deviations, or None; files have −∞ for None."""
    return [None if one == -math.inf else one for one in m.numbers("activation_sparsity_scale", n_layer)]
