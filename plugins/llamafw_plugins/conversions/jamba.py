"""Conversion to the architecture ``jamba``."""

from __future__ import annotations

from llamafw import checkpoints as c
from llamafw_plugins.conversions.mamba import time_step_rank

LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "pre_ff_layernorm",
    **c.ATTENTION,
    "ssm_dt_norm": "mamba.dt_layernorm",
    "ssm_b_norm": "mamba.b_layernorm",
    "ssm_c_norm": "mamba.c_layernorm",
    "ffn_gate": "feed_forward.gate_proj",
    "ffn_up": "feed_forward.up_proj",
    "ffn_down": "feed_forward.down_proj",
    "ffn_gate_inp": "feed_forward.router",
}


def jamba(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``JambaForCausalLM``."""
    config.require("hidden_act", "silu", default="silu")
    n_layer, n_kv = config.integer("num_hidden_layers"), config.integer("num_key_value_heads")
    period = config.integer("attn_layer_period", default=8)
    offset = config.integer("attn_layer_offset", default=4, low=0)
    return c.Conversion(
        "jamba",
        {
            **c.decoder_metadata(config),
            **c.rms_eps(config),
            "attention.head_count_kv": [n_kv if i % period == offset else 0 for i in range(n_layer)],
            "ssm.conv_kernel": config.integer("mamba_d_conv", default=4),
            "ssm.inner_size": config.integer("mamba_expand", default=2) * config.integer("hidden_size"),
            "ssm.state_size": config.integer("mamba_d_state", default=16),
            "ssm.time_step_rank": time_step_rank(config, "mamba_dt_rank"),
            "expert_count": config.integer("num_experts", "num_local_experts", default=16),
            "expert_used_count": config.integer("num_experts_per_tok", default=2),
        },
        [
            *c.ends(norm="final_layernorm"),
            *c.layers(LAYER),
            *c.mamba_rules("model.layers.{i}.mamba"),
            *c.experts(block="feed_forward.experts"),
        ],
    )
