"""Checks that the KV cache that ``--ctx-size`` asks for fits into the memory of the machine."""

from __future__ import annotations

import math
from bisect import bisect_right

import psutil

from llamafw.engine.backend_options import backend_options
from llamafw.errors import SettingsError
from llamafw.graph import Cache, Graph, State, states
from llamafw.settings import Settings
from llamafw.types import BackendOptions

_ELEMENT_BYTES = {"f16": 2, "f32": 4}
_CTX_STEP = 256  # suggested context sizes are multiples of it


def slot_bytes(graph: Graph, options: BackendOptions, n_ctx: int) -> int:
    """Return the size of what a slot of ``n_ctx`` positions keeps.

    A cache has a key and a value per position; if all layers that read it have a window, only for the positions in the
    window. Operators with a state of fixed size have it, and a copy for each snapshot, in float32.
    """
    return sum(_state_bytes(state, options, n_ctx) for state in states(graph))


def _state_bytes(state: State, options: BackendOptions, n_ctx: int) -> int:
    if not isinstance(state.value, Cache):
        return 4 * math.prod(state.fixed) * (1 + options.n_snapshots)
    n_positions = n_ctx if state.window is None else min(n_ctx, state.window)
    parts = (state.value.k, options.cache_type_k), (state.value.v, options.cache_type_v)
    return n_positions * sum(math.prod(part.shape) * _ELEMENT_BYTES[kind] for part, kind in parts)


def check_kv_cache_fits(graph: Graph, settings: Settings, memory: int | None = None) -> None:
    """Check that the KV cache is not larger than the physical memory.

    Only a context size that the user sets is checked. The default, the whole trained context for each slot, may be
    larger than the memory: the cache takes memory only as it is filled.

    Parameters
    ----------
    graph : Graph
        The model.
    settings : Settings
        The server's settings.
    memory : int, optional
        Physical memory in bytes; by default that of this machine.

    Raises
    ------
    SettingsError
        The cache does not fit. The message says how much it needs, how much memory there is, and what would fit.
    """
    if settings.ctx_size == 0:
        return
    if memory is None:
        memory = psutil.virtual_memory().total
    options = backend_options(settings, graph.n_ctx_train)
    needed = options.n_slots * slot_bytes(graph, options, options.n_ctx)
    if needed <= memory:
        return

    slots = f"{options.n_slots} slots of {options.n_ctx} tokens" if options.n_slots > 1 else f"{options.n_ctx} tokens"
    raise SettingsError(
        f"-c {settings.ctx_size} needs {_gib(needed)} for the KV cache ({slots}), but this machine has {_gib(memory)} "
        f"of memory; {_suggestion(graph, options, settings.ctx_size, memory)}"
    )


def _suggestion(graph: Graph, options: BackendOptions, ctx_size: int, memory: int) -> str:
    """Return which flags fit into memory, instead of ``-c ctx_size``."""
    n_slots = options.n_slots

    def needed(n_positions: int) -> int:
        return n_slots * slot_bytes(graph, options, n_positions // n_slots)

    n_fitting = bisect_right(range(ctx_size), memory, key=needed) - 1
    n_ctx = n_fitting // _CTX_STEP * _CTX_STEP or n_fitting
    if n_ctx < n_slots:
        n_ctx = memory // slot_bytes(graph, options, 1)
        return f"-c {n_ctx} -np {n_ctx} would fit" if n_ctx else "no context of this model fits"
    share = f" ({n_ctx // n_slots} tokens for each slot; a smaller -np gives each slot more)" if n_slots > 1 else ""
    return f"-c {n_ctx} would fit{share}"


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB"
