"""Conversions to the architectures ``cohere2`` and ``command-r``."""

from __future__ import annotations

from typing import Any

from llamafw import checkpoints as c
from llamafw_plugins.conversions.gemma2 import windows

PERIOD = 4
LAYER = {"attn_norm": "input_layernorm", **c.ATTENTION, **c.FEED_FORWARD}


def cohere2(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Cohere2ForCausalLM``."""
    period = config.integer("sliding_window_pattern", "layer_switch", default=PERIOD)
    types = c.layer_types(config, config.integer("num_hidden_layers"), period)
    return c.Conversion(
        "cohere2", {**_metadata(config), **windows(config, types, PERIOD)}, [*c.ends(), *c.layers(LAYER)]
    )


def command_r(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``CohereForCausalLM``."""
    return c.Conversion("command-r", _metadata(config), [*c.ends(), *c.layers({**LAYER, **c.HEAD_NORMS})])


def _metadata(config: c.Config) -> dict[str, Any]:
    config.require("hidden_act", "silu", default="silu")
    rope = c.rope(config, c.head_size(config))
    if rope.tensors or "rope.scaling.type" in rope.metadata:
        config.fail("rope_scaling", "is not supported")
    return {
        **c.decoder_metadata(config),
        **rope.metadata,
        "rope.scaling.type": "none",
        "attention.layer_norm_epsilon": config.number("layer_norm_eps", default=1e-5),
        "logit_scale": config.number("logit_scale"),
    }
