"""Conversion to the architecture ``eurobert``."""

from __future__ import annotations

from llamafw import checkpoints as c


def eurobert(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``EuroBertModel``."""
    config.require("hidden_act", "silu", default="silu")
    rope = c.rope(config, c.head_size(config), base=250_000.0)
    return c.Conversion(
        "eurobert",
        {**c.decoder_metadata(config), **c.rms_eps(config, 1e-5), **rope.metadata, "attention.causal": False},
        [*c.ends(root=""), *c.layers(c.LAYER, layer="layers.{i}")],
        rope.tensors,
        {"model.": ""},
        ("lm_head.*",),
    )
