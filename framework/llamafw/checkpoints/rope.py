"""Rotary positions of a config as GGUF's keys and tensors.

Configs of transformers 5 have ``rope_parameters``; older ones have ``rope_theta`` beside ``rope_scaling``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from llamafw.checkpoints.changes import Array
from llamafw.checkpoints.config import Config


class RopeDescription(NamedTuple):
    """Rotary positions as a GGUF file has them."""

    metadata: dict[str, Any]  # ``rope.*``, without the architecture's prefix
    tensors: dict[str, Array]  # divisors of the frequencies, float32


def rope_section(config: Config, layer_type: str | None = None) -> Config:
    """Return the parameters of rotations, as transformers 5 has them.

    Parameters
    ----------
    config : Config
        The config.
    layer_type : str, optional
        ``"full_attention"`` or ``"sliding_attention"``, if the config may have different parameters for them.
    """
    section = config.section("rope_parameters", "rope_scaling")
    if layer_type and isinstance(section.get(layer_type), Mapping):
        section = section.section(layer_type)
    values = dict(section.values)
    values.setdefault("rope_type", values.get("type") or "default")
    for key in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        if values.get(key) is None and config.has(key):
            values[key] = config.get(key)
    return Config(config.path, values, section.prefix)


def rope(
    config: Config,
    head_size: int = 0,
    layer_type: str | None = None,
    *,
    base: float = 10_000.0,
    n_rotated: int | None = None,
) -> RopeDescription:
    """Return the rotary positions that a config describes.

    Parameters
    ----------
    config : Config
        The config.
    head_size : int
        How many numbers a head has. Which share of them is rotated may be in the config.
    layer_type : str, optional
        See `rope_section`.
    base : float
        The base of the frequencies if the config has none.
    n_rotated : int, optional
        How many numbers of a head are rotated, whatever the config says about their share.

    Raises
    ------
    ModelError
        The kind of scaling is not supported.
    """
    section = rope_section(config, layer_type)
    share = section.number("partial_rotary_factor", default=1.0)
    n_rot = int(head_size * share) if n_rotated is None else n_rotated
    base = section.number("rope_theta", default=base)
    found: dict[str, Any] = {"rope.freq_base": base, "rope.dimension_count": n_rot}
    kind = section.text("rope_type")
    if sections := section.get("mrope_section"):
        found["rope.dimension_sections"] = [*sections, *[0] * (4 - len(sections))]
    if kind in ("default", "mrope"):
        return RopeDescription(found, {})
    if kind == "linear":
        return RopeDescription(found | _stretched(section, "linear"), {})
    if kind == "yarn":
        return RopeDescription(found | _yarn(section, config), {})
    if kind == "llama3":
        return RopeDescription(found, {"rope_freqs.weight": _llama3_factors(section, base, n_rot)})
    if kind in ("longrope", "su"):
        return _longrope(config, section, found, n_rot)
    section.fail("rope_type", f"is {kind!r}, which is not supported; default, linear, yarn, llama3 and longrope are")


def _stretched(section: Config, kind: str) -> dict[str, Any]:
    return {"rope.scaling.type": kind, "rope.scaling.factor": section.number("factor")}


def _yarn(section: Config, config: Config) -> dict[str, Any]:
    """Return YaRN's keys (arXiv:2309.00071).

    The factor on cosines and sines is GGUF's own, 1 + 0.1 ln(s), times ``yarn_attn_factor``.
    """
    factor = section.number("factor")
    usual = 1 + 0.1 * math.log(factor) if factor > 1 else 1.0
    mscale, of_all = (section.number(key, default=0.0) for key in ("mscale", "mscale_all_dim"))
    magnitude = usual
    if section.has("attention_factor"):
        magnitude = section.number("attention_factor")
    elif mscale and of_all and factor > 1:
        magnitude = (1 + 0.1 * mscale * math.log(factor)) / (1 + 0.1 * of_all * math.log(factor))
    length = section.get("original_max_position_embeddings") or config.integer("max_position_embeddings")
    return _stretched(section, "yarn") | {
        "rope.scaling.original_context_length": length,
        "rope.scaling.yarn_beta_fast": section.number("beta_fast", default=32.0),
        "rope.scaling.yarn_beta_slow": section.number("beta_slow", default=1.0),
        "rope.scaling.yarn_attn_factor": magnitude / usual if magnitude != usual else None,
    }


def _llama3_factors(section: Config, base: float, n_rot: int) -> Array:
    """Return the divisors of Llama 3.1's frequencies, ``(n_rot // 2,)`` float32.

    Low frequencies are divided by the factor, high ones by 1, and those between by a value in between: see
    ``apply_scaling`` in https://github.com/meta-llama/llama-models.
    """
    frequencies = base ** (-np.arange(0, n_rot, 2) / n_rot)
    n_turns = section.integer("original_max_position_embeddings") * frequencies / (2 * math.pi)
    low, high = section.number("low_freq_factor", default=1.0), section.number("high_freq_factor", default=4.0)
    kept = np.clip((n_turns - low) / (high - low), 0, 1)
    factors: Array = 1 / (kept + (1 - kept) / section.number("factor"))
    return factors.astype(np.float32)


def _longrope(config: Config, section: Config, found: dict[str, Any], n_rot: int) -> RopeDescription:
    """Return the keys and the two tensors of LongRoPE (arXiv:2402.13753)."""
    tensors = {}
    for length in ("short", "long"):
        values = section.list(f"{length}_factor")
        if len(values) != n_rot // 2:
            section.fail(f"{length}_factor", f"has {len(values)} numbers; there are {n_rot // 2} frequencies")
        tensors[f"rope_factors_{length}.weight"] = np.array(values, np.float32)
    context = config.integer("max_position_embeddings")
    original = section.integer("original_max_position_embeddings", default=context)
    scale = context / original
    magnitude = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
    magnitude = section.number("attention_factor", "long_mscale", default=magnitude)
    found |= {"rope.scaling.original_context_length": original, "rope.scaling.attn_factor": magnitude}
    return RopeDescription(found, tensors)
