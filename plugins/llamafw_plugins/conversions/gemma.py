"""Conversions to the architecture ``gemma``: Gemma and CodeGemma."""

from __future__ import annotations

from llamafw import checkpoints as c


def gemma(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``GemmaForCausalLM``; norms multiply by 1 + weight."""
    rope = c.rope(config, c.head_size(config))
    return c.Conversion(
        "gemma",
        {**c.decoder_metadata(config), **c.rms_eps(config), **rope.metadata},
        [*c.ends(c.Add()), *c.layers(c.LAYER, c.Add())],
        extra=rope.tensors,
    )
