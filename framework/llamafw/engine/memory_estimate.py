"""Estimates the memory that a model needs before it is loaded, and chooses a context that fits.

Independent of backends: it counts what the graph says that must be kept and computed.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, replace

from llamafw.engine.backend_options import backend_options
from llamafw.engine.machine_memory import Memory, read_memory
from llamafw.engine.memory_check import gib, limit_snapshots, slot_bytes, suggest
from llamafw.engine.side_settings import prediction_settings
from llamafw.errors import SettingsError
from llamafw.graph import Cache, Graph
from llamafw.settings import Settings
from llamafw.speculation_settings import PREDICTION_DRAFTER
from llamafw.types import BackendOptions, Model

_PROGRAM_BYTES = 192 * 2**20  # compiled kernels, tokenizer, responses: what the process takes after the model is open
_FLOAT_BYTES = 4
_CTX_STEP = 256  # contexts that are chosen are multiples of it


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """What a server needs, in bytes."""

    weights: int  # all tensors
    cache: int  # of all slots, with their snapshots, when they are full
    activations: int  # what one forward pass computes
    program: int  # everything else

    @property
    def total(self) -> int:
        """The sum."""
        return self.weights + self.cache + self.activations + self.program


def estimate(
    model: Model, graph: Graph, options: BackendOptions, draft: BackendOptions | None = None
) -> MemoryEstimate:
    """Return what a server with these options needs.

    ``draft`` are the options of the block for multi-token prediction, if it is used; see `draft_options`.
    """
    slots = 0 if not graph.causal else _cache_bytes(graph, options, draft)
    logits = options.n_slots * graph.n_vocab * _FLOAT_BYTES
    activations = options.n_ubatch * _FLOAT_BYTES * _floats_per_token(graph) + logits
    if draft is not None and graph.prediction is not None:  # with the hidden states that it gets and returns
        hidden = 2 * draft.n_batch * graph.n_embd
        activations += _FLOAT_BYTES * (draft.n_ubatch * _floats_per_token(graph.prediction) + hidden) + logits
    return MemoryEstimate(model.n_bytes, slots, activations, _PROGRAM_BYTES)


def check_memory(model: Model, graph: Graph, settings: Settings, memory: Memory | None = None) -> str | None:
    """Check that the server fits into the memory that is free.

    Of the caches, only a context that the user sets counts. The default may be larger: the cache takes memory only as
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

    Returns
    -------
    str or None
        A warning, if the default context does not fit.

    Raises
    ------
    SettingsError
        The server does not fit. The message says how much it needs, how much is free, and what would fit.
    """
    memory = memory or read_memory()
    options = cpu_options(settings, graph, memory)
    needed = estimate(model, graph, options, draft_options(settings, graph, options))
    if needed.total <= memory.available:
        return None
    fixed = needed.total - needed.cache
    if settings.ctx_size == 0 and fixed <= memory.available:
        return (
            f"if all {options.n_slots} slots of {options.n_ctx} tokens are filled, they need {gib(needed.cache)}, but "
            f"{gib(memory.available - fixed)} of memory are free beside the model; -c, -np or --fit on limit them"
        )
    advice = "a smaller type of weights (--requantize q4_0) or a smaller model is needed"
    if fixed <= memory.available:
        advice = suggest(graph, options, memory.available - fixed)
    raise SettingsError(
        f"the server needs about {gib(needed.total)} of memory ({gib(needed.weights)} for weights, "
        f"{gib(needed.cache if settings.ctx_size else 0)} for the KV cache, "
        f"{gib(needed.activations + needed.program)} for the rest), "
        f"but {gib(memory.available)} are free; {advice}"
    )


def fit(model: Model, graph: Graph, settings: Settings, memory: Memory | None = None) -> tuple[Settings, str | None]:
    """Return settings whose context fits into the memory that is free, and a sentence about what was changed.

    The context of each slot is lowered, to ``--fit-ctx`` at least, then the number of slots. A context that the user
    sets, and a number of slots that the user sets, are not changed.

    Parameters
    ----------
    model, graph, settings, memory
        Those of `check_memory`.
    """
    memory = memory or read_memory()
    if settings.ctx_size or not graph.causal:
        return settings, None
    options = cpu_options(settings, graph, memory)
    draft = draft_options(settings, graph, options)
    needed = estimate(model, graph, options, draft)
    target = settings.fit_target << 20
    n_free = memory.available - target - (needed.total - needed.cache)
    if needed.cache <= n_free:
        return settings, None

    n_min = min(settings.fit_ctx, options.n_ctx)
    n_slots = options.n_slots
    if settings.parallel is None:
        while n_slots > 1 and _cache_bytes(graph, replace(options, n_slots=n_slots, n_ctx=n_min), draft) > n_free:
            n_slots -= 1
    steps = range(n_min, options.n_ctx + 1, _CTX_STEP)
    n_fitting = bisect_right(
        steps, n_free, key=lambda n: _cache_bytes(graph, replace(options, n_slots=n_slots, n_ctx=n), draft)
    )
    n_ctx = steps[max(n_fitting - 1, 0)]
    changed = replace(settings, ctx_size=n_ctx * n_slots, parallel=n_slots)
    slots = "1 slot" if n_slots == 1 else f"{n_slots} slots"
    return changed, (
        f"--fit: {slots} of {n_ctx} tokens instead of {options.n_slots} of {options.n_ctx}, because "
        f"{gib(max(n_free, 0))} of memory are free for them"
    )


def cpu_options(settings: Settings, graph: Graph, memory: Memory) -> BackendOptions:
    """Return the options that the backend gets, with as many snapshots as the memory allows."""
    options = backend_options(settings, graph.n_ctx_train, is_encoder=not graph.causal)
    return limit_snapshots(options, graph, memory.total)


def draft_options(settings: Settings, graph: Graph, options: BackendOptions) -> BackendOptions | None:
    """Return the options of the block for multi-token prediction; None if it is not used.

    ``options`` are those of the model.
    """
    if PREDICTION_DRAFTER not in settings.drafters or graph.prediction is None:
        return None
    own = prediction_settings(settings)
    types = backend_options(own, graph.n_ctx_train)
    return replace(options, cache_type_k=types.cache_type_k, cache_type_v=types.cache_type_v)


def _cache_bytes(graph: Graph, options: BackendOptions, draft: BackendOptions | None) -> int:
    """Return the size of the caches of all slots; those of ``draft`` have as many positions as those of the model."""
    n_bytes = slot_bytes(graph, options).total(options)
    if draft is not None and graph.prediction is not None:
        draft = replace(draft, n_slots=options.n_slots, n_ctx=options.n_ctx)
        n_bytes += slot_bytes(graph.prediction, draft).total(draft)
    return n_bytes


def _floats_per_token(graph: Graph) -> int:
    """Return how many numbers are needed at the same time while a token's values are computed one by one."""
    values = list(graph)
    last_use = {id(used): i for i, value in enumerate(values) for used in value.inputs()}
    most = now = 0
    ending: dict[int, int] = {}
    for i, value in enumerate(values):
        size = 0 if isinstance(value, Cache) else math.prod(value.shape)
        if value is graph.logits:  # only of tokens that need them
            size = 0
        now += size
        most = max(most, now)
        end = last_use.get(id(value), i)
        ending[end] = ending.get(end, 0) + size
        now -= ending.pop(i, 0)
    return most
