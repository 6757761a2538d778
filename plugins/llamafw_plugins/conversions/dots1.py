"""Conversion to the architecture ``dots1``."""

from __future__ import annotations

from llamafw import checkpoints as c

LAYER = {
    **c.LAYER,
    **c.HEAD_NORMS,
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
}
GATING_SIGMOID = 2


def dots1(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Dots1ForCausalLM``."""
    config.require("hidden_act", "silu", default="silu")
    n_layer = config.integer("num_hidden_layers")
    types = config.list("layer_types", n=n_layer, default=["full_attention"] * n_layer)
    if any(one != "full_attention" for one in types):
        config.fail("layer_types", "has windows, which are not supported")
    rope = c.rope(config, c.head_size(config))
    return c.Conversion(
        "dots1",
        {
            **c.decoder_metadata(config),
            **c.rms_eps(config),
            **rope.metadata,
            "leading_dense_block_count": config.integer("first_k_dense_replace", default=0, low=0),
            "expert_count": config.integer("n_routed_experts"),
            "expert_used_count": config.integer("num_experts_per_tok"),
            "expert_feed_forward_length": config.integer("moe_intermediate_size"),
            "expert_shared_count": config.integer("n_shared_experts"),
            "expert_group_count": config.integer("n_group", default=1),
            "expert_group_used_count": config.integer("topk_group", default=1),
            "expert_gating_func": GATING_SIGMOID,
            "expert_weights_norm": config.flag("norm_topk_prob", default=False),
            "expert_weights_scale": config.number("routed_scaling_factor", default=1.0),
        },
        [
            *c.ends(),
            *c.layers(LAYER),
            c.rule("blk.{i}.exp_probs_b.bias", "model.layers.{i}.mlp.gate.e_score_correction_bias"),
            *c.experts(),
        ],
        extra=rope.tensors,
    )
