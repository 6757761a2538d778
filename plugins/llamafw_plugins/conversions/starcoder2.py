"""Conversion to the architecture ``starcoder2``."""

from __future__ import annotations

from llamafw import checkpoints as c

LAYER = {**c.NORMS, **c.ATTENTION, "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}


def starcoder2(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Starcoder2ForCausalLM``."""
    config.require("hidden_act", "gelu_pytorch_tanh", default="gelu_pytorch_tanh")
    rope = c.rope(config, c.head_size(config))
    return c.Conversion(
        "starcoder2",
        {
            **c.decoder_metadata(config),
            **rope.metadata,
            "attention.layer_norm_epsilon": config.number("norm_epsilon", default=1e-5),
            "attention.sliding_window": config.integer("sliding_window", default=0, low=0) or None,
        },
        [*c.ends(), *c.layers(LAYER)],
        extra=rope.tensors,
    )
