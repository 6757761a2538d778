"""Chooses the samplers of requests that do not name any.

Independent of what samplers do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from llamafw import SamplerPlugin

DEFAULT_ORDER = (
    "penalties",
    "dry",
    "top_n_sigma",
    "top_k",
    "tfs_z",
    "typ_p",
    "top_p",
    "min_p",
    "xtc",
    "temperature",
)
"""The samplers of a request that names none, in order; those without an effect are not created."""

LAST = "adaptive_p"
"""The sampler that comes last wherever a request names it, because it chooses among the candidates of all others."""

MIROSTAT_ORDER = ("penalties", "temperature", "mirostat")
"""The samplers of a request with ``mirostat``, instead of the samplers that it names."""


def default_order(samplers: Mapping[str, SamplerPlugin], options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the samplers of a request that does not name any, in the order of use.

    These are the samplers of `DEFAULT_ORDER`, other samplers that have ``precedes``, and other samplers of which the
    request changes an option. Each of the others is placed just before the sampler that ``precedes`` names, otherwise
    before ``temperature``; `LAST` comes last. Several samplers at one place keep the order of their registration.

    Parameters
    ----------
    samplers : mapping of str to SamplerPlugin
        All registered samplers.
    options : mapping
        The request's values of their options, by field.
    """
    names = [name for name in DEFAULT_ORDER if name in samplers]
    for name, plugin in samplers.items():
        successor = getattr(plugin, "precedes", None)
        if successor in names and name not in names:
            names.insert(names.index(successor), name)

    shared = {field for name in (*names, *MIROSTAT_ORDER) if name in samplers for field in samplers[name].options}
    for name, plugin in samplers.items():
        if name not in names and _is_changed(plugin, options, shared):
            successor = getattr(plugin, "precedes", None)
            place = successor if successor in names else "temperature"
            names.insert(names.index(place) if place in names else len(names), name)
    return with_last(names)


def with_last(names: Iterable[str]) -> tuple[str, ...]:
    """Return samplers with `LAST` at the end, if it is one of them."""
    names = tuple(names)
    return (*(name for name in names if name != LAST), *(LAST,) * (LAST in names))


def _is_changed(plugin: SamplerPlugin, options: Mapping[str, Any], shared: Collection[str]) -> bool:
    """Return whether the request changes an option that no sampler in use shares."""
    return any(
        field in options and options[field] != schema.get("default")
        for field, schema in plugin.options.items()
        if field not in shared
    )
