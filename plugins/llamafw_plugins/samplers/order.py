"""The samplers of requests that do not name any. Independent of what samplers do."""

from __future__ import annotations

from collections.abc import Mapping

from llamafw import SamplerPlugin

DEFAULT_ORDER = ("penalties", "top_k", "tfs_z", "typ_p", "top_p", "min_p", "temperature")
"""The built-in samplers, in order."""

MIROSTAT_ORDER = ("penalties", "temperature", "mirostat")
"""The samplers of a request with ``mirostat``; it replaces the ones that the request names."""


def default_order(samplers: Mapping[str, SamplerPlugin]) -> tuple[str, ...]:
    """Return the built-in samplers, with plugins' samplers placed where their ``precedes`` says.

    Several samplers that precede the same one keep the order of their registration.
    """
    names = [name for name in DEFAULT_ORDER if name in samplers]
    for name, plugin in samplers.items():
        follower = getattr(plugin, "precedes", None)
        if follower in names and name not in names:
            names.insert(names.index(follower), name)
    return tuple(names)
