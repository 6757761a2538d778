"""Conversion to the architecture ``phi2``."""

from __future__ import annotations

from llamafw import checkpoints as c

LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.dense",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}
ROTATED = 0.5
"""Share of a head that is rotated, if the config does not say it."""


def phi2(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``PhiForCausalLM``."""
    config = config.with_defaults(partial_rotary_factor=ROTATED)
    config.require("hidden_act", "gelu_new", default="gelu_new")
    config.require("qk_layernorm", False, default=False)
    rope = c.rope(config, c.head_size(config))
    return c.Conversion(
        "phi2",
        {
            **c.decoder_metadata(config),
            **rope.metadata,
            "attention.layer_norm_epsilon": config.number("layer_norm_eps", default=1e-5),
        },
        [*c.ends(norm="final_layernorm"), *c.layers(LAYER)],
        extra=rope.tensors,
    )
