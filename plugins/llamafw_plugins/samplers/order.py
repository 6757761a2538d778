"""Which samplers a request uses that names none. It knows samplers by their names alone."""

from __future__ import annotations

from collections.abc import Mapping

from llamafw import SamplerPlugin

DEFAULT_ORDER = ("penalties", "top_k", "tfs_z", "typ_p", "top_p", "min_p", "temperature")
"""Our own samplers, in order."""

MIROSTAT_ORDER = ("penalties", "temperature", "mirostat")
"""Those of a request that wants Mirostat, whatever it names."""


def default_order(samplers: Mapping[str, SamplerPlugin]) -> tuple[str, ...]:
    """Return our own samplers, and before each those of other plugins that say they precede it.

    What several plugins put before the same sampler stays in the order of their registration.
    """
    names = [name for name in DEFAULT_ORDER if name in samplers]
    for name, plugin in samplers.items():
        follower = getattr(plugin, "precedes", None)
        if follower in names and name not in names:
            names.insert(names.index(follower), name)
    return tuple(names)
