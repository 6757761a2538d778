"""Refuses a server that does not fit into the memory that is free, or chooses a context that fits."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace

from llamafw.engine.machine_memory import Memory, read_memory
from llamafw.engine.memory_check import check_kv_cache_fits, gib, suggest
from llamafw.engine.memory_estimate import (
    MODEL,
    NO_COMPANIONS,
    Companions,
    MemoryEstimate,
    cpu_options,
    estimate,
    slot_caches,
    total_cache_bytes,
)
from llamafw.errors import SettingsError
from llamafw.graph import Graph
from llamafw.plugins import Plugins
from llamafw.settings import Settings
from llamafw.types import Model

_CTX_STEP = 256  # contexts that are chosen are multiples of it


def check_memory(
    model: Model,
    graph: Graph,
    settings: Settings,
    memory: Memory | None = None,
    companions: Companions = NO_COMPANIONS,
) -> str | None:
    """Check that the server fits into the memory that is free.

    Of the caches, only those whose context the user sets count. The default may be larger: a cache takes memory only as
    it is filled.

    Parameters
    ----------
    model : Model
        The model, after its tensors were rounded.
    graph : Graph
        Its graph.
    settings : Settings
        The server's settings.
    memory : Memory, optional
        By default that of this machine.
    companions : Companions
        What will be loaded beside it.

    Returns
    -------
    str or None
        A warning, if the caches do not fit when they are full.

    Raises
    ------
    SettingsError
        The server does not fit. The message says how much it needs, how much is free, and what would fit.
    """
    memory = memory or read_memory()
    options = cpu_options(settings, graph, memory)
    needed = estimate(model, graph, options, companions, is_cache_set=settings.ctx_size != 0)
    n_free = memory.available - needed.total + needed.unset_cache
    if needed.total <= memory.available:
        return None
    if n_free >= 0:
        slots, flags = "all slots", "--embedding-ctx-size or --fit on"
        if settings.ctx_size == 0:
            slots, flags = f"all {options.n_slots} slots of {options.n_ctx} tokens", "-c, -np or --fit on"
        return (
            f"if {slots} are filled, they need {gib(needed.unset_cache)}, but {gib(n_free)} of memory are free beside "
            f"{'the model' if len(needed.parts) == 1 else 'what else is loaded'}; {flags} limit them"
        )
    advice = "a smaller type of weights (--requantize q4_0) or a smaller model is needed"
    caches = slot_caches(graph, options, companions.followers)
    set_cache = total_cache_bytes(caches, options.n_slots, options.n_ctx) if settings.ctx_size else 0
    if n_free + set_cache >= 0 and set_cache:
        advice = suggest(caches, n_free + set_cache)
    raise SettingsError(
        f"the server needs about {gib(needed.total - needed.unset_cache)} of memory "
        f"({gib(needed.weights)} for weights, {gib(needed.cache - needed.unset_cache)} for the KV cache, "
        f"{gib(needed.activations + needed.vocabulary + needed.program)} for the rest{_shares(needed)}), "
        f"but {gib(memory.available)} are free; {advice}"
    )


def fit(
    model: Model,
    graph: Graph,
    settings: Settings,
    memory: Memory | None = None,
    companions: Companions = NO_COMPANIONS,
) -> tuple[Settings, str | None]:
    """Return settings whose context fits into the memory that is free, and a sentence about what was changed.

    The context of each slot is lowered, to ``--fit-ctx`` at least, then the number of slots. A context that the user
    sets, and a number of slots that the user sets, are not changed.

    Parameters
    ----------
    model, graph, settings, memory, companions
        Those of `check_memory`.
    """
    memory = memory or read_memory()
    if settings.ctx_size or not graph.causal:
        return settings, None
    options = cpu_options(settings, graph, memory)
    caches = slot_caches(graph, options, companions.followers)
    n_cache = total_cache_bytes(caches, options.n_slots, options.n_ctx)
    needed = estimate(model, graph, options, companions).total - n_cache
    n_free = memory.available - (settings.fit_target << 20) - needed
    if n_cache <= n_free:
        return settings, None

    n_min = min(settings.fit_ctx, options.n_ctx)
    n_slots = options.n_slots
    if settings.parallel is None:
        while n_slots > 1 and total_cache_bytes(caches, n_slots, n_min) > n_free:
            n_slots -= 1
    steps = range(n_min, options.n_ctx + 1, _CTX_STEP)
    n_fitting = bisect_right(steps, n_free, key=lambda n: total_cache_bytes(caches, n_slots, n))
    n_ctx = steps[max(n_fitting - 1, 0)]
    changed = replace(settings, ctx_size=n_ctx * n_slots, parallel=n_slots)
    slots = "1 slot" if n_slots == 1 else f"{n_slots} slots"
    return changed, (
        f"--fit: {slots} of {n_ctx} tokens instead of {options.n_slots} of {options.n_ctx}, because "
        f"{gib(max(n_free, 0))} of memory are free for them"
    )


def fit_into_memory(
    model: Model,
    graph: Graph,
    settings: Settings,
    backend: str,
    plugins: Plugins,
    log: Callable[[str], None],
    companions: Companions = NO_COMPANIONS,
) -> Settings:
    """Return settings that fit into memory: those given, or a smaller context if ``--fit`` allows it.

    ``backend`` is the name of the backend; the other parameters are those of `check_memory`.

    Raises
    ------
    SettingsError
        They do not fit, or the backend has a memory of its own, and ``--fit`` is given.
    """
    if has_own_memory(backend, plugins):
        if settings.fit:
            raise SettingsError(f"--fit: the backend {backend!r} has a memory of its own; set -c and -np instead")
        check_kv_cache_fits(graph, settings)
        return settings
    if settings.fit:
        settings, change = fit(model, graph, settings, companions=companions)
        if change is not None:
            log(change)
    check_kv_cache_fits(graph, settings)
    warning = check_memory(model, graph, settings, companions=companions)
    if warning is not None:
        logging.getLogger(__name__).warning(warning)
    return settings


def has_own_memory(backend: str, plugins: Plugins) -> bool:
    """Return whether a backend has the model in a memory that is not the machine's."""
    return bool(getattr(plugins.registry("backend")[backend], "has_own_memory", False))


def _shares(needed: MemoryEstimate) -> str:
    """Return what the parts beside the model need, as the end of a parenthesis; "" if there are none."""
    parts = [(name, part.total - (0 if part.is_cache_set else part.cache)) for name, part in needed.parts.items()]
    shares = [f"{gib(n_bytes)} for the {name}" for name, n_bytes in parts if name != MODEL]
    return f"; of this {', '.join(shares)}" if shares else ""
