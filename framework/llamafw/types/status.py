"""The state of the engine, the slots and the plugins, as the server reports it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from llamafw.types.arrays import JsonSchema
from llamafw.types.generation import GenerateRequest, StopType


@dataclass(frozen=True, slots=True)
class CachePages:
    """How much of a KV cache is used, if slots can share it: a page holds some positions of one slot or of several."""

    n_positions: int  # positions in a page
    n_used: int  # pages that slots use; a shared page counts once
    n_shared: int  # pages that more than one slot uses
    n_touched: int  # pages that were ever used, and take memory
    n_total: int  # pages


@dataclass(frozen=True, slots=True)
class DiskCacheStats:
    """The prompt cache in a folder: its current size, and counters since the start."""

    n_states: int  # states of this model
    n_bytes: int  # size of their files
    limit: int  # bytes, of the files of all models
    n_reads: int  # states read
    n_writes: int  # states written
    n_failures: int  # states that could not be read or written


@dataclass(frozen=True, slots=True)
class PriorityStats:
    """The requests of one priority: their current number, and counters since the start."""

    waiting: int = 0  # requests waiting for a slot
    rejected: int = 0  # requests refused because the queue was full
    preemptions: int = 0  # how often a request was interrupted by a more urgent one


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters of an engine since its start, and its current load."""

    n_decode: int = 0  # forward passes
    n_busy_slots: int = 0  # number of slots in a forward pass, summed over all passes
    prompt_tokens: int = 0  # prompt tokens evaluated
    prompt_tokens_cached: int = 0  # prompt tokens reused from a cache
    prompt_seconds: float = 0.0  # time spent on prompts
    predicted_tokens: int = 0  # tokens drawn
    timed_tokens: int = 0  # tokens drawn, without the first of each request, which is drawn when its prompt ends
    predicted_seconds: float = 0.0  # time spent on drawing these
    drafts: int = 0  # drafts evaluated
    draft_tokens: int = 0  # tokens of these drafts
    draft_accepted: Sequence[int] = ()  # how many tokens were accepted, by their position in the draft, from 0
    embeddings: int = 0  # texts embedded or reranked
    embedding_tokens: int = 0  # tokens of these texts
    requests_processing: int = 0  # requests in a slot
    requests_deferred: int = 0  # requests waiting for a slot
    requests_rejected: int = 0  # requests refused because the queue was full
    by_priority: Mapping[int, PriorityStats] = field(default_factory=dict)  # the same by priority
    slow_tokens: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By kind ("sampler" or "grammar") and name: the number of tokens for which it was slow."""
    cache_tokens: int = 0  # positions in use, over all slots
    cache_size: int = 0  # positions of all slots
    cache_pages: CachePages | None = None  # None: slots do not share memory
    prompt_cache_bytes: int = 0  # size of the saved states in memory
    prompt_cache_limit: int | None = 0  # bytes; None: no limit
    sleeping: bool = False  # the model is not in memory: the next request loads it again
    disk_cache: DiskCacheStats | None = None  # None: the prompt cache has no folder


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """The current state of one slot."""

    id: int  # from 0
    state: Literal["idle", "prompt", "generating"]  # prompt: evaluating a prompt
    id_task: int  # number of the slot's last request, counted over all slots; -1: none yet
    n_tokens: int  # positions in use
    speculative: bool = False  # the engine has drafters
    request: GenerateRequest | None = None  # the current request, or the last one
    n_prompt: int = 0  # tokens of its prompt
    n_prompt_processed: int = 0  # prompt tokens evaluated, without reused ones
    n_cached: int = 0  # prompt tokens reused from a cache
    n_decoded: int = 0  # tokens drawn
    n_remain: int = 0  # tokens that may still be drawn; -1: no limit
    stop_type: StopType = "none"  # how the last request ended
    stopping_word: str = ""  # the stop string that ended it


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One plugin that was found, for listings."""

    name: str  # "distribution:entry", or the value of --plugin
    distribution: str  # "?" for files and modules
    version: str  # version of the distribution; "?" for files and modules
    state: Literal["active", "failed", "blocked"]  # failed: not loaded because of an error; blocked: by --no-plugin
    requires_api: str | None = None  # API versions that the plugin says it works with
    kinds: Mapping[str, Sequence[str]] = field(default_factory=dict)  # what it registered: kind → names
    hooks: Sequence[str] = ()  # names of the hooks it implements
    options: JsonSchema = field(default_factory=dict)  # its own settings
    request_fields: JsonSchema = field(default_factory=dict)  # fields it adds to requests that generate
    load_ms: float = 0.0  # time to import the plugin and register what it provides
    error: str | None = None  # why it failed
