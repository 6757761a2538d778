"""Defines the settings of an engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamafw.engine.rank_head import RankHead
from llamafw.engine.slots import DEFAULT_SIMILARITY
from llamafw.sampling.slow_calls import SlowCalls


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Settings of an engine."""

    n_batch: int = 2048  # maximum tokens per forward pass; the backend's limit applies too
    n_ubatch: int = 512  # maximum tokens per forward pass if several sequences share it; see `scheduler`
    similarity: float = DEFAULT_SIMILARITY  # see `Slots`
    continuous: bool = True  # see `Scheduler`
    prompt_cache: int | None = 0  # bytes of the prompt cache; None: no limit
    max_queue: int = 1024  # requests that may wait for a slot
    timeout: float = 600.0  # seconds that a request may wait for a slot
    fingerprint: bytes = bytes(32)  # identifies the saved states that this engine can read
    rank_head: RankHead | None = None  # computes scores, for rerankers
    log_prompts: bool = False  # log the tokens of every prompt
    log_caches: bool = False  # log the contents of the caches after every step
    slow_calls: SlowCalls = field(default_factory=SlowCalls)  # notices slow samplers and grammars
