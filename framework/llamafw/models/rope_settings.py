"""``--rope-*``, ``--yarn-*`` and ``--grp-attn-*``: replace a model's metadata for RoPE.

This module maps settings to metadata keys of GGUF, and two of llamafw for self-extend. Architectures interpret the keys
of GGUF.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

from llamafw.errors import SettingsError
from llamafw.settings import Settings
from llamafw.types import Model


def apply_rope_settings(model: Model, settings: Settings) -> Model:
    """Return the model with RoPE metadata from the settings that are not at their defaults."""
    overrides = _rope_overrides(settings)
    if not overrides:
        return model
    architecture = model.metadata.get("general.architecture")
    changed = {f"{architecture}.rope.{key}": value for key, value in overrides.items()}
    return replace(model, metadata=MappingProxyType({**model.metadata, **changed}))


def _rope_overrides(settings: Settings) -> dict[str, Any]:
    """Return the new values, by metadata key without ``ARCHITECTURE.rope.``.

    The value 0 keeps that of the model; for ``yarn_ext_factor``, -1 does.
    """
    if settings.rope_scale and settings.rope_freq_scale:
        raise SettingsError(
            "--rope-scale and --rope-freq-scale cannot be used together: each is 1 divided by the other"
        )
    factor = 1 / settings.rope_freq_scale if settings.rope_freq_scale else settings.rope_scale
    ext_factor = settings.yarn_ext_factor
    values = {
        "scaling.type": settings.rope_scaling,
        "scaling.factor": factor or None,
        "freq_base": settings.rope_freq_base or None,
        "scaling.original_context_length": settings.yarn_orig_ctx or None,
        "scaling.yarn_ext_factor": None if ext_factor is None or ext_factor < 0 else ext_factor,
        "scaling.yarn_attn_factor": settings.yarn_attn_factor,
        "scaling.yarn_beta_fast": settings.yarn_beta_fast,
        "scaling.yarn_beta_slow": settings.yarn_beta_slow,
        **_groups(settings),
    }
    return {key: value for key, value in values.items() if value is not None}


def _groups(settings: Settings) -> dict[str, int]:
    """Return the values for self-extend, none if it is off."""
    factor, width = settings.grp_attn_n, settings.grp_attn_w
    if factor == 1:
        return {}
    if width % factor:
        raise SettingsError(f"--grp-attn-w {width} is not a multiple of --grp-attn-n {factor}")
    return {"group.factor": factor, "group.width": width}


def groups_of(model: Model) -> tuple[int, int] | None:
    """Return the tokens per group and per window of self-extend; None if it is off."""
    prefix = f"{model.metadata.get('general.architecture')}.rope.group"
    if f"{prefix}.factor" not in model.metadata:
        return None
    return model.metadata[f"{prefix}.factor"], model.metadata[f"{prefix}.width"]
