"""Conversions to the architectures ``olmo2`` and ``olmoe``."""

from __future__ import annotations

from collections.abc import Mapping

from llamafw import checkpoints as c
from llamafw_plugins.conversions.gemma2 import windows

PERIOD = 4
NORMS = {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
LAYER = {**NORMS, **c.ATTENTION, **c.HEAD_NORMS, **c.FEED_FORWARD}
EPS = 1e-5


def olmo2(config: c.Config) -> c.Conversion:
    """Return the conversion of an ``Olmo2ForCausalLM``."""
    config.require("hidden_act", "silu", default="silu")
    rope = c.rope(config, c.head_size(config))
    return c.Conversion(
        "olmo2",
        {**c.decoder_metadata(config), **c.rms_eps(config, EPS), **rope.metadata},
        [*c.ends(), *c.layers(LAYER)],
        extra=rope.tensors,
    )


def olmo3(config: c.Config) -> c.Conversion:
    """Return the conversion of an ``Olmo3ForCausalLM``, whose context is extended in layers without a window only."""
    config.require("hidden_act", "silu", default="silu")
    rope = c.rope(config, c.head_size(config), "full_attention")
    base = rope.metadata["rope.freq_base"]
    section = config.section("rope_parameters", "rope_scaling")
    if isinstance(section.get("sliding_attention"), Mapping):
        local = section.section("sliding_attention")
        local.require("rope_type", "default", default="default")
        base = local.number("rope_theta", default=base)
    types = c.layer_types(config, config.integer("num_hidden_layers"), PERIOD)
    return c.Conversion(
        "olmo2",
        {
            **c.decoder_metadata(config),
            **c.rms_eps(config, EPS),
            **rope.metadata,
            **windows(config, types),
            "rope.freq_base_swa": base,
        },
        [*c.ends(), *c.layers(LAYER)],
        extra=rope.tensors,
    )


def olmoe(config: c.Config) -> c.Conversion:
    """Return the conversion of an ``OlmoeForCausalLM``."""
    config.require("hidden_act", "silu", default="silu")
    config.require("clip_qkv", None)
    rope = c.rope(config, c.head_size(config))
    return c.Conversion(
        "olmoe",
        {
            **c.decoder_metadata(config),
            **c.rms_eps(config, EPS),
            **rope.metadata,
            "expert_count": config.integer("num_experts"),
            "expert_used_count": config.integer("num_experts_per_tok"),
            "expert_weights_norm": config.flag("norm_topk_prob", default=False),
        },
        [*c.ends(), *c.layers({**c.NORMS, **c.ATTENTION, **c.HEAD_NORMS, "ffn_gate_inp": "mlp.gate"}), *c.experts()],
        extra=rope.tensors,
    )
