"""Conversions to the architectures ``phi3`` and ``phimoe``."""

from __future__ import annotations

from typing import Any

from llamafw import checkpoints as c
from llamafw_plugins.conversions.llama import MIXTRAL_EXPERTS


def phi3(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Phi3ForCausalLM``: Phi-3, Phi-3.5-mini, Phi-4 and Phi-4-mini."""
    config.require("hidden_act", "silu", default="silu")
    rope = c.rope(config, c.head_size(config))
    return c.Conversion(
        "phi3",
        {**c.decoder_metadata(config), **c.rms_eps(config), **rope.metadata, **positions(config)},
        [
            *c.ends(),
            *c.layers(
                {
                    **c.NORMS,
                    "attn_qkv": "self_attn.qkv_proj",
                    "attn_output": "self_attn.o_proj",
                    "ffn_up": "mlp.gate_up_proj",
                    "ffn_down": "mlp.down_proj",
                }
            ),
        ],
        extra=rope.tensors,
    )


def phimoe(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``PhimoeForCausalLM``."""
    config.require("hidden_act", "silu", default="silu")
    rope = c.rope(config, c.head_size(config))
    return c.Conversion(
        "phimoe",
        {
            **c.decoder_metadata(config),
            **c.rms_eps(config),
            **rope.metadata,
            **positions(config),
            "expert_count": config.integer("num_local_experts"),
            "expert_used_count": config.integer("num_experts_per_tok"),
        },
        [
            *c.ends(),
            *c.layers({**c.NORMS, **c.ATTENTION, "ffn_gate_inp": "block_sparse_moe.gate"}),
            *c.expert_rules(MIXTRAL_EXPERTS, "block_sparse_moe.experts.{e}"),
        ],
        extra=rope.tensors,
    )


def positions(config: c.Config) -> dict[str, Any]:
    """Return the keys of the window, and of the context before it was extended."""
    original = c.rope_section(config).integer(
        "original_max_position_embeddings", default=config.integer("max_position_embeddings")
    )
    return {
        "attention.sliding_window": config.integer("sliding_window", default=0, low=0),
        "rope.scaling.original_context_length": original,
    }
