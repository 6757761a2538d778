"""Read the settings of samplers that a model file recommends, as defaults of request fields.

The keys begin with ``general.sampling.``, as llama.cpp and `llamafw convert` write them. Requests and the server's
settings take precedence. Independent of what samplers do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from llamafw.errors import SettingsError
from llamafw.options import check
from llamafw.registry import Registry
from llamafw.sampling_settings import read_sampler_names
from llamafw.settings import options

PREFIX = "general.sampling."
SEQUENCE = f"{PREFIX}sequence"

SETTINGS = {
    "temp": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
    "penalty_last_n": "repeat_last_n",
    "penalty_repeat": "repeat_penalty",
    "mirostat": "mirostat",
    "mirostat_tau": "mirostat_ent",
    "mirostat_eta": "mirostat_lr",
}
"""Key after the prefix → field of `Settings` with the same meaning and range."""


def read_sampling_defaults(
    metadata: Mapping[str, Any], samplers: Registry, log: Callable[[str], None]
) -> Mapping[str, Any]:
    """Return the recommended defaults of request fields, by field; invalid ones are logged and left out.

    Parameters
    ----------
    metadata : mapping
        The model's metadata.
    samplers : Registry
        All samplers, by name.
    log : callable
        Receives a line for each invalid value.
    """
    found: dict[str, Any] = {}
    for key, name in SETTINGS.items():
        if (value := metadata.get(PREFIX + key)) is not None:
            option = options()[name]
            try:
                found[str(option.request_field)] = check(option, _number(option.type, value), PREFIX + key)
            except (SettingsError, ValueError) as error:
                reason = str(error) if isinstance(error, SettingsError) else f"{PREFIX}{key}: {value!r:.80} {error}"
                log(f"{reason}; this recommendation of the model file is ignored")
    if (sequence := metadata.get(SEQUENCE)) is not None:
        try:
            found["samplers"] = _sampler_names(sequence, samplers)
        except ValueError as error:
            log(f"{SEQUENCE}: {error}; this recommendation of the model file is ignored")
    return MappingProxyType(found)


def _number(kind: type, value: Any) -> int | float:
    """Return a number as a type; ValueError if it is not one.

    A number of 32 bits becomes the decimal number that it was rounded from: 0.95, not 0.949999988079071.
    """
    if type(value) is int:
        return int(value) if kind is int else float(value)
    if type(value) is float and kind is float:
        return float(str(np.float32(value)))
    raise ValueError("is not a whole number" if kind is int else "is not a number")


def _sampler_names(value: Any, samplers: Registry) -> list[str]:
    """Return the samplers in a list separated by ``;``; ValueError if one does not exist."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.80} is not a list of samplers")
    names = read_sampler_names([name for name in re.split(r"\s*;\s*", value.strip()) if name])
    unknown = next((name for name in names if name not in samplers), None)
    if unknown is not None:
        raise ValueError(f"sampler {unknown!r:.80} does not exist{samplers.suggest(unknown)}")
    return list(names)
