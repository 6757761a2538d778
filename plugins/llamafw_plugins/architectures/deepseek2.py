"""The architectures ``deepseek2`` and ``mistral4``: DeepSeek-V2, V3 and R1 (arXiv:2405.04434, arXiv:2412.19437).

Kimi K2, GLM-4.7-Flash, Mistral Large 3 and Mistral Small 4 have the same graph; queries of the last two grow with the
logarithm of their position.

Attention is multi-head latent attention. The first layers are dense; in the others, each token uses some of many small
experts and a shared one. Rotated pairs are adjacent.
"""

from __future__ import annotations

from llamafw import Model
from llamafw import graph as g

GLM_4_7_FLASH = ((47, 154880), (48, 154880))
"""Numbers of blocks and tokens of the files that use sigmoid gating without saying so."""


def deepseek2(model: Model) -> g.Graph:
    """Return the graph of a ``deepseek2`` model."""
    return _deepseek2(g.Metadata(model, "deepseek2"))


def mistral4(model: Model) -> g.Graph:
    """Return the graph of a ``mistral4`` model."""
    return _deepseek2(g.Metadata(model, "mistral4"))


def _deepseek2(m: g.Metadata) -> g.Graph:
    w, n_ctx = g.Parameters.of(m.model), m.integer("context_length")
    n_layer = g.layer_count(m, w)
    eps, sizes = m.number("attention.layer_norm_rms_epsilon", low=0), g.latent_sizes(m)
    n_lora_q, n_shared = (m.integer(key, 0, low=0) for key in ("attention.q_lora_rank", "expert_shared_count"))
    n_dense = m.integer("leading_dense_block_count", 0, low=0)
    routing = g.routing(m, gating=_gating(m, w), normalised=False) if n_dense < n_layer else None

    # The key is 0.1 · mscale_all_dim. Models have an equal mscale, so nothing is left of it in cosines and sines.
    multiplier = 10 * m.number("rope.scaling.yarn_log_multiplier", 0.0, low=0, allow_low=True)
    magnitude = 1.0 if multiplier else g.yarn_temperature(m)
    turn = g.rotation(m, sizes.rotated, n_ctx, interleaved=True, yarn_magnitude=magnitude)
    scale = g.yarn_temperature(m, multiplier) ** 2 * sizes.key**-0.5

    def block(x: g.Value, layer: g.Parameters, *, dense: bool) -> g.Value:
        """Return the output of a layer."""
        h = g.rms_norm(x, layer["attn_norm"], eps)
        if n_lora_q:
            q = g.linear(g.rms_norm(g.linear(h, layer["attn_q_a"]), layer["attn_q_a_norm"], eps), layer["attn_q_b"])
        else:
            q = g.linear(h, layer["attn_q"])
        q = g.heads(q, sizes.n_head, sizes.key)
        a = g.latent_attention(h, q, layer, sizes, turn, scale, eps, temperature=m.attention_temperature())
        x = x + g.linear(a, layer["attn_output"])

        h = g.rms_norm(x, layer["ffn_norm"], eps)
        if dense or not routing:
            h = g.gated_ffn(h, layer)
        elif n_shared:
            h = g.experts(h, layer, routing) + g.shared_expert(h, layer)
        else:
            h = g.experts(h, layer, routing)
        return x + h

    x = g.token_embedding(m, w)
    for i, layer in enumerate(w.layers(n_layer)):
        x = g.layer_output(block(x, layer, dense=i < n_dense), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    logits = g.linear(hidden, g.output_matrix(w))

    w.skip("rope_freqs.")
    w.check_all_used(m.architecture)
    is_dense = "ffn_gate_inp" not in w.layer(n_layer)
    prediction = g.prediction(m, w, n_layer, eps, lambda x, layer: block(x, layer, dense=is_dense))
    return g.Graph(hidden, logits, n_ctx, prediction)


def _gating(m: g.Metadata, w: g.Parameters) -> g.Gating:
    """Return the gating of files that do not name it: softmax as in DeepSeek-V2, except for one model."""
    model = (m.integer("block_count"), w["token_embd"].weight.shape[0])
    return "sigmoid" if model in GLM_4_7_FLASH else "softmax"
