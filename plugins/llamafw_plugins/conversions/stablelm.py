"""Conversions to the architectures ``stablelm`` and ``orion``."""

from __future__ import annotations

from llamafw import checkpoints as c

ROTATED = 0.25
"""Share of a head that is rotated, if the config does not say it."""


def stablelm(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``StableLmForCausalLM``; norms of heads are a tensor per head."""
    config = config.with_defaults(partial_rotary_factor=config.number("rope_pct", default=ROTATED))
    config.require("hidden_act", "silu", default="silu")
    rope = c.rope(config, c.head_size(config))
    return c.Conversion(
        "stablelm",
        {
            **c.decoder_metadata(config),
            **rope.metadata,
            "attention.layer_norm_epsilon": config.number("layer_norm_eps", "norm_eps", default=1e-5),
            "use_parallel_residual": config.flag("use_parallel_residual", default=False),
        },
        [*c.ends(), *c.layers(c.LAYER), *(_head_norms(role) for role in "qk")],
        extra=rope.tensors,
    )


def orion(config: c.Config) -> c.Conversion:
    """Return the conversion of an ``OrionForCausalLM``; its config calls the epsilon of LayerNorms that of RMSNorms."""
    config.require("hidden_act", "silu", default="silu")
    rope = c.rope(config, c.head_size(config))
    eps = {"attention.layer_norm_epsilon": config.number("rms_norm_eps", default=1e-6)}
    metadata = {**c.decoder_metadata(config), **rope.metadata, **eps}
    return c.Conversion("orion", metadata, [*c.ends(), *c.layers(c.LAYER)], extra=rope.tensors)


def _head_norms(role: str) -> c.Rule:
    """Return the rule for the norms of all heads of Q or K."""
    norms = f"model.layers.{{i}}.self_attn.{role}_layernorm.norms.{{e}}.weight"
    return c.rule(f"blk.{{i}}.attn_{role}_norm.weight", norms, c.Stack())
