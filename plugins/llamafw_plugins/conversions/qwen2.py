"""Conversions to the architectures ``qwen2`` and ``qwen2moe``."""

from __future__ import annotations

from llamafw import checkpoints as c
from llamafw_plugins.conversions.qwen35 import expert_metadata, expert_rules


def qwen2(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Qwen2ForCausalLM``."""
    config.require("hidden_act", "silu", default="silu")
    config.require("use_sliding_window", False, default=False)
    rope = c.rope(config, c.head_size(config))
    return c.Conversion(
        "qwen2",
        {**c.decoder_metadata(config), **c.rms_eps(config), **rope.metadata},
        [*c.ends(), *c.layers(c.LAYER)],
        extra=rope.tensors,
    )


def qwen2moe(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Qwen2MoeForCausalLM``."""
    config.require("hidden_act", "silu", default="silu")
    config.require("use_sliding_window", False, default=False)
    config.require("decoder_sparse_step", 1, default=1)
    config.require("mlp_only_layers", None, [], default=[])
    rope = c.rope(config, c.head_size(config))
    return c.Conversion(
        "qwen2moe",
        {
            **c.decoder_metadata(config),
            **c.rms_eps(config),
            **rope.metadata,
            **expert_metadata(config),
            "expert_weights_norm": config.flag("norm_topk_prob", default=False),
        },
        [*c.ends(), *c.layers({**c.NORMS, **c.ATTENTION}), *expert_rules()],
        extra=rope.tensors,
    )
