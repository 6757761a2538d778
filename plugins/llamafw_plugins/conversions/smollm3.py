"""Conversions to the architectures ``smollm3`` and ``arcee``."""

from __future__ import annotations

from llamafw import checkpoints as c

PERIOD = 4


def smollm3(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``SmolLM3ForCausalLM``; GGUF files cannot say which layers have no positions."""
    config.require("hidden_act", "silu", default="silu")
    config.require("use_sliding_window", False, default=False)
    n_layer = config.integer("num_hidden_layers")
    usual = [int((i + 1) % PERIOD != 0) for i in range(n_layer)]
    config.require("no_rope_layer_interval", PERIOD, default=PERIOD)
    if config.list("no_rope_layers", n=n_layer, default=usual) != usual:
        config.fail("no_rope_layers", "is not supported; only every fourth layer may have no positions")
    return _conversion(config, "smollm3", c.LAYER)


def arcee(config: c.Config) -> c.Conversion:
    """Return the conversion of an ``ArceeForCausalLM``."""
    config.require("hidden_act", "relu2", default="relu2")
    return _conversion(config, "arcee", {role: name for role, name in c.LAYER.items() if role != "ffn_gate"})


def _conversion(config: c.Config, architecture: str, layer: dict[str, str]) -> c.Conversion:
    rope = c.rope(config, c.head_size(config))
    return c.Conversion(
        architecture,
        {**c.decoder_metadata(config), **c.rms_eps(config), **rope.metadata},
        [*c.ends(), *c.permuted(config), *c.layers(layer)],
        extra=rope.tensors,
    )
