"""``--rope-*`` and ``--yarn-*``: they take the place of what a model's metadata say of RoPE.

It knows the keys that GGUF has for them, not what they mean: that is for architectures to say.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

from llamafw.errors import SettingsError
from llamafw.settings import Settings
from llamafw.types import Model


def with_rope(model: Model, settings: Settings) -> Model:
    """Return the model with the settings that were given instead of its own."""
    given = _given(settings)
    if not given:
        return model
    architecture = model.metadata.get("general.architecture")
    changed = {f"{architecture}.rope.{key}": value for key, value in given.items()}
    return replace(model, metadata=MappingProxyType({**model.metadata, **changed}))


def _given(settings: Settings) -> dict[str, Any]:
    """Return GGUF's keys without their beginnings. 0 means the model's own, of an extrapolation -1 does."""
    if settings.rope_scale and settings.rope_freq_scale:
        raise SettingsError("--rope-scale and --rope-freq-scale exclude each other: one is 1 divided by the other")
    factor = 1 / settings.rope_freq_scale if settings.rope_freq_scale else settings.rope_scale
    share = settings.yarn_ext_factor
    values = {
        "scaling.type": settings.rope_scaling,
        "scaling.factor": factor or None,
        "freq_base": settings.rope_freq_base or None,
        "scaling.original_context_length": settings.yarn_orig_ctx or None,
        "scaling.yarn_ext_factor": None if share is None or share < 0 else share,
        "scaling.yarn_attn_factor": settings.yarn_attn_factor,
        "scaling.yarn_beta_fast": settings.yarn_beta_fast,
        "scaling.yarn_beta_slow": settings.yarn_beta_slow,
    }
    return {key: value for key, value in values.items() if value is not None}
