"""Checks that the caches that ``--ctx-size`` asks for fit into the memory of the machine, and limits snapshots.

Independent of backends: it counts what the graph says that a slot must keep.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llamafw.engine.backend_options import backend_options
from llamafw.engine.machine_memory import read_memory
from llamafw.errors import SettingsError
from llamafw.graph import Cache, Concat, Graph, states
from llamafw.settings import Settings
from llamafw.types import BackendOptions
from llamafw.types.backend_options import CacheType

_BLOCK = 32  # numbers of which types of the KV cache have a whole number of bytes
_BLOCK_BYTES: dict[CacheType, int] = {
    "f32": 128,
    "f16": 64,
    "bf16": 64,
    "q8_0": 34,
    "q5_1": 24,
    "q5_0": 22,
    "q4_1": 20,
    "q4_0": 18,
    "iq4_nl": 18,
}
_STATE_BYTES = 4  # per number of a recurrent state
_CTX_STEP = 256  # suggested context sizes are multiples of it
_SNAPSHOT_SHARE = 8  # snapshots may take this part of the memory: an eighth


@dataclass(frozen=True, slots=True)
class SlotBytes:
    """What a slot must keep, in bytes."""

    per_position: int  # for each position of the context
    fixed: int  # regardless of the context: recurrent states, and the last positions for layers with windows
    snapshot: int  # for each snapshot: recurrent states and windows; 0 if none are needed

    def total(self, options: BackendOptions) -> int:
        """Return the size of all slots with their snapshots."""
        n_bytes = options.n_ctx * self.per_position + self.fixed + options.n_snapshots * self.snapshot
        return options.n_slots * n_bytes


def slot_bytes(graph: Graph, options: BackendOptions) -> SlotBytes:
    """Return what a slot must keep.

    Of a `Cache` that is read through windows only, these are the positions of the largest window and of the tokens
    that are computed at once, unless the context is shorter. Values that are the start of the keys (MLA) need no memory
    of their own.
    """
    per_position = fixed = snapshot = 0
    for state in states(graph):
        if not isinstance(state.value, Cache):
            n_bytes = math.prod(state.fixed) * _STATE_BYTES
            fixed, snapshot = fixed + n_bytes, snapshot + n_bytes
            continue
        n_bytes = _row_bytes(state.value, options)
        window = options.n_ctx if state.window is None or options.swa_full else state.window
        if window + options.n_ubatch < options.n_ctx:
            fixed, snapshot = fixed + n_bytes * (window + options.n_ubatch), snapshot + n_bytes * window
        else:
            per_position += n_bytes
    return SlotBytes(per_position, fixed, snapshot)


def limit_snapshots(options: BackendOptions, graph: Graph, memory: int | None = None) -> BackendOptions:
    """Return the options with as many snapshots as may take an eighth of the memory, but at least one.

    Parameters
    ----------
    options : BackendOptions
        The options, with the number of snapshots that the user wants.
    graph : Graph
        The model.
    memory : int, optional
        Size of the memory in bytes; by default that of this machine or container.
    """
    snapshot = slot_bytes(graph, options).snapshot
    if not snapshot:
        return options
    if memory is None:
        memory = read_memory().total
    n_fitting = memory // _SNAPSHOT_SHARE // (options.n_slots * snapshot)
    return replace(options, n_snapshots=max(min(options.n_snapshots, n_fitting), 1))


def check_kv_cache_fits(graph: Graph, settings: Settings, memory: int | None = None) -> None:
    """Check that the caches of all slots are not larger than the physical memory.

    Only a context size that the user sets is checked. The default, the whole trained context for each slot, may be
    larger than the memory: the cache takes memory only as it is filled.

    Parameters
    ----------
    graph : Graph
        The model.
    settings : Settings
        The server's settings.
    memory : int, optional
        Size of the memory in bytes; by default that of this machine or container.

    Raises
    ------
    SettingsError
        The caches do not fit. The message says how much they need, how much memory there is, and what would fit.
    """
    if settings.ctx_size == 0:
        return
    if memory is None:
        memory = read_memory().total
    options = limit_snapshots(backend_options(settings, graph.n_ctx_train, is_encoder=not graph.causal), graph, memory)
    slot = slot_bytes(graph, options)
    needed = slot.total(options)
    if needed <= memory:
        return

    slots = f"{options.n_slots} slots of {options.n_ctx} tokens" if options.n_slots > 1 else f"{options.n_ctx} tokens"
    raise SettingsError(
        f"-c {settings.ctx_size} needs {gib(needed)} for the KV cache ({slots}), but this machine has {gib(memory)} "
        f"of memory; {suggest([(graph, options)], memory)}"
    )


def _row_bytes(cache: Cache, options: BackendOptions) -> int:
    """Return the size of the keys and values of one position."""
    n_bytes = math.prod(cache.k.shape) * _BLOCK_BYTES[options.cache_type_k] // _BLOCK
    if isinstance(cache.k, Concat) and cache.k.parts[0] is cache.v:
        return n_bytes
    return n_bytes + math.prod(cache.v.shape) * _BLOCK_BYTES[options.cache_type_v] // _BLOCK


def suggest(caches: Sequence[tuple[Graph, BackendOptions]], n_bytes: int) -> str:
    """Return which flags let the caches of all slots fit into ``n_bytes``, as the end of a sentence.

    ``caches`` are graphs that have the same numbers of slots and positions, with their options.
    """
    slots, n_slots = [slot_bytes(graph, options) for graph, options in caches], caches[0][1].n_slots
    per_position = sum(slot.per_position for slot in slots)
    fixed = sum(slot.total(replace(options, n_ctx=0)) for slot, (_, options) in zip(slots, caches, strict=True))
    n_free = n_bytes - fixed
    n_positions = max(n_free, 0) // per_position if per_position else 0
    n_ctx = n_positions // _CTX_STEP * _CTX_STEP or n_positions
    if n_ctx == 0:
        return "no context of this model fits"
    if n_ctx < n_slots:
        return f"-c {n_ctx} -np {n_ctx} would fit"
    share = f" ({n_ctx // n_slots} tokens for each slot; a smaller -np gives each slot more)" if n_slots > 1 else ""
    return f"-c {n_ctx} would fit{share}"


def gib(n_bytes: int) -> str:
    """Return a size as text."""
    return f"{n_bytes / 2**30:.1f} GiB"


def mib(n_bytes: int) -> str:
    """Return a size that may be small as text."""
    return f"{n_bytes / 2**20:.0f} MiB"
