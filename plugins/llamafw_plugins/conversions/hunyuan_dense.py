"""Conversion to the architecture ``hunyuan-dense``."""

from __future__ import annotations

from typing import Any

from llamafw import checkpoints as c

HEAD_NORMS = {"attn_q_norm": "self_attn.query_layernorm", "attn_k_norm": "self_attn.key_layernorm"}


def hunyuan_dense(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``HunYuanDenseV1ForCausalLM``."""
    config.require("hidden_act", "silu", default="silu")
    return c.Conversion(
        "hunyuan-dense",
        {**c.decoder_metadata(config), **c.rms_eps(config, 1e-5), **_rope(config)},
        [*c.ends(), *c.layers({**c.LAYER, **HEAD_NORMS})],
    )


def _rope(config: c.Config) -> dict[str, Any]:
    """Return the keys of rotations; a scaling with a fixed factor alpha only changes the base of the frequencies."""
    size, section = c.head_size(config), c.rope_section(config)
    section.require("rope_type", "default", "dynamic")
    base = section.number("rope_theta", default=10_000.0)
    if section.get("rope_type") == "dynamic":
        base *= section.number("alpha") ** (size / (size - 2))
    return {"rope.freq_base": base, "rope.dimension_count": size}
