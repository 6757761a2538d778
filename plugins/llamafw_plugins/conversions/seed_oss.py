"""Conversion to the architecture ``seed_oss``."""

from __future__ import annotations

from llamafw import checkpoints as c

LAYER = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    **c.ATTENTION,
    **c.FEED_FORWARD,
}


def seed_oss(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``SeedOssForCausalLM``."""
    config.require("hidden_act", "silu", default="silu")
    rope = c.rope(config, c.head_size(config))
    return c.Conversion(
        "seed_oss",
        {**c.decoder_metadata(config), **c.rms_eps(config), **rope.metadata},
        [*c.ends(), *c.layers(LAYER)],
        extra=rope.tensors,
    )
