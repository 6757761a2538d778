"""Conversion to the architecture ``minicpm3``."""

from __future__ import annotations

from llamafw import checkpoints as c
from llamafw_plugins.conversions.deepseek2 import ATTENTION

LAYER = {
    **ATTENTION,
    "attn_kv_b": "self_attn.kv_b_proj",
    "ffn_norm": "post_attention_layernorm",
    **c.FEED_FORWARD,
}


def minicpm3(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``MiniCPM3ForCausalLM``; GGUF files do not have its factors."""
    config.require("hidden_act", "silu", default="silu")
    config.require("scale_emb", 12, default=12)
    config.require("scale_depth", 1.4, default=1.4)
    config.require("dim_model_base", 256, default=256)
    plain, rotated = config.integer("qk_nope_head_dim"), config.integer("qk_rope_head_dim")
    n_embd, n_head = config.integer("hidden_size"), config.integer("num_attention_heads")
    rope = c.rope(config, n_rotated=rotated)
    return c.Conversion(
        "minicpm3",
        {
            **c.decoder_metadata(config),
            **c.rms_eps(config, 1e-5),
            **rope.metadata,
            "attention.key_length": plain + rotated,
            "attention.value_length": config.integer("v_head_dim", default=n_embd // n_head),
            "attention.q_lora_rank": config.integer("q_lora_rank"),
            "attention.kv_lora_rank": config.integer("kv_lora_rank"),
        },
        [*c.ends(), *c.layers(LAYER)],
        extra=rope.tensors,
    )
