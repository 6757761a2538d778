"""Conversions to the architectures ``glm4`` and ``glm4moe``."""

from __future__ import annotations

from llamafw import checkpoints as c

LAYER = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_self_attn_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
    **c.ATTENTION,
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
}
LAYER_WITH_EXPERTS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    **c.ATTENTION,
    **c.HEAD_NORMS,
    **c.FEED_FORWARD,
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
}
ROTATED = 0.5
"""Share of a head that is rotated, if the config does not say it."""

GATING_SIGMOID = 2


def glm4(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Glm4ForCausalLM``."""
    config = config.with_defaults(partial_rotary_factor=ROTATED)
    config.require("hidden_act", "silu", default="silu")
    rope = c.rope(config, c.head_size(config))
    return c.Conversion(
        "glm4",
        {**c.decoder_metadata(config), **c.rms_eps(config), **rope.metadata},
        [*c.ends(), *c.layers(LAYER)],
        extra=rope.tensors,
    )


def glm4moe(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Glm4MoeForCausalLM``."""
    config = config.with_defaults(partial_rotary_factor=ROTATED)
    config.require("hidden_act", "silu", default="silu")
    rope = c.rope(config, c.head_size(config))
    return c.Conversion(
        "glm4moe",
        {
            **c.decoder_metadata(config),
            **c.rms_eps(config, 1e-5),
            **rope.metadata,
            "leading_dense_block_count": config.integer("first_k_dense_replace", default=1, low=0),
            "expert_count": config.integer("n_routed_experts"),
            "expert_used_count": config.integer("num_experts_per_tok"),
            "expert_feed_forward_length": config.integer("moe_intermediate_size"),
            "expert_shared_count": config.integer("n_shared_experts", default=1, low=0),
            "expert_group_count": config.integer("n_group", default=1),
            "expert_group_used_count": config.integer("topk_group", default=1),
            "expert_gating_func": GATING_SIGMOID,
            "expert_weights_norm": config.flag("norm_topk_prob", default=True),
            "expert_weights_scale": config.number("routed_scaling_factor", default=1.0),
        },
        [
            *c.ends(),
            *c.layers(LAYER_WITH_EXPERTS),
            c.rule("blk.{i}.exp_probs_b.bias", "model.layers.{i}.mlp.gate.e_score_correction_bias"),
            *c.experts(),
            *c.prediction_layers(),
        ],
        extra=rope.tensors,
    )
