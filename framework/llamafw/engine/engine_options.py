"""Defines the settings of an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from llamafw.engine.dense_layers import DenseLayer
from llamafw.engine.disk_cache import DiskCache
from llamafw.engine.rank_head import RankHead
from llamafw.engine.slots import DEFAULT_SIMILARITY
from llamafw.engine.speculation import SpeculationOptions
from llamafw.interfaces import Drafter
from llamafw.sampling.slow_calls import SlowCalls


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Settings of an engine."""

    n_batch: int = 2048  # maximum tokens per forward pass; the backend's limit applies too
    n_ubatch: int = 512  # maximum tokens per forward pass if several sequences share it; see `scheduler`
    similarity: float = DEFAULT_SIMILARITY  # see `Slots`
    continuous: bool = True  # see `Scheduler`
    prompt_cache: int | None = 0  # bytes of the prompt cache; None: no limit
    disk_cache: DiskCache | None = None  # the prompt cache on disk; the engine closes it
    free_memory: Callable[[], int] | None = None  # see `PromptCache`
    max_queue: int = 1024  # requests that may wait for a slot
    max_queue_by_priority: Mapping[int, int] = field(default_factory=dict)  # see `QueueLimits`
    max_slowdown: float | None = None  # see `PromptBudget`; None: without limit
    prompt_gap: float = 0.0  # seconds; see `PromptBudget`
    priority_aging: float = 10.0  # see `WaitingLine`
    timeout: float = 600.0  # seconds that a request may wait for a slot
    sleep_after: float | None = None  # seconds without requests until the backend, an `UnloadableBackend`, is unloaded
    fingerprint: bytes = bytes(32)  # identifies the saved states that this engine can read
    rank_head: RankHead | None = None  # computes scores, for rerankers
    dense: tuple[DenseLayer, ...] = ()  # applied to embeddings
    drafters: Mapping[str, Drafter] = field(default_factory=dict)  # by name; they propose drafts, see `Speculation`
    speculation: SpeculationOptions = SpeculationOptions()
    log_prompts: bool = False  # log the tokens of every prompt
    log_caches: bool = False  # log the contents of the caches after every step
    slow_calls: SlowCalls = field(default_factory=SlowCalls)  # notices slow samplers and grammars
