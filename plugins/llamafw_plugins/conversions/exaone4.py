"""Conversion to the architecture ``exaone4``."""

from __future__ import annotations

from llamafw import checkpoints as c
from llamafw_plugins.conversions.gemma2 import windows
from llamafw_plugins.conversions.olmo2 import LAYER


def exaone4(config: c.Config) -> c.Conversion:
    """Return the conversion of an ``Exaone4ForCausalLM``."""
    config.require("hidden_act", "silu", default="silu")
    rope = c.rope(config, c.head_size(config))
    window = config.integer("sliding_window", default=0, low=0)
    return c.Conversion(
        "exaone4",
        {
            **c.decoder_metadata(config),
            **c.rms_eps(config, 1e-5),
            **rope.metadata,
            **(windows(config, _layer_types(config)) if window else {"attention.sliding_window": 0}),
        },
        [*c.ends(), *c.layers(LAYER)],
        extra=rope.tensors,
        skipped=("mtp.*",),
    )


def _layer_types(config: c.Config) -> list[str]:
    """Return the type of each layer; a pattern is a number, or letters such as LLLG, in which L is a window."""
    n_layer, pattern = config.integer("num_hidden_layers"), config.get("sliding_window_pattern", default=4)
    if isinstance(pattern, str) and pattern and not config.has("layer_types"):
        is_windowed = [pattern[i % len(pattern)] == "L" for i in range(n_layer)]
        return ["sliding_attention" if one else "full_attention" for one in is_windowed]
    return c.layer_types(config, n_layer, pattern if type(pattern) is int and pattern > 0 else 4)
