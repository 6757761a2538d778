"""What the server reports about itself: engine, slots, plugins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from llamafw.types.arrays import JsonSchema
from llamafw.types.generation import GenerateRequest, StopType


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What an engine has done since its start, and what it is doing."""

    n_decode: int = 0  # forward passes
    n_busy_slots: int = 0  # the sum over them of slots in each
    prompt_tokens: int = 0  # evaluated
    prompt_tokens_cached: int = 0  # taken from a cache instead
    prompt_seconds: float = 0.0  # spent on prompts
    predicted_tokens: int = 0  # drawn
    predicted_seconds: float = 0.0  # spent on drawing them
    requests_processing: int = 0  # in a slot
    requests_deferred: int = 0  # waiting for one
    requests_rejected: int = 0  # refused, because too many were waiting
    cache_tokens: int = 0  # positions in use in all slots
    cache_size: int = 0  # positions of all slots
    prompt_cache_bytes: int = 0  # of states kept in memory
    prompt_cache_limit: int | None = 0  # None: there is none


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """One slot, as it is now."""

    id: int  # from 0
    state: Literal["idle", "prompt", "generating"]  # what it does
    id_task: int  # counts the requests that slots were given to; -1: none yet
    n_tokens: int  # positions in its cache
    request: GenerateRequest | None = None  # the one it serves, or served last
    n_prompt: int = 0  # tokens of its prompt
    n_prompt_processed: int = 0  # evaluated, without those from the cache
    n_cached: int = 0  # tokens of the prompt taken from a cache
    n_decoded: int = 0  # tokens drawn
    n_remain: int = 0  # tokens that may follow; -1: any number
    stop_type: StopType = "none"  # how its last request ended
    stopping_word: str = ""  # the stop string that ended it


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One plugin that was found, as listings show it."""

    name: str  # distribution:entry, or what --plugin was given
    distribution: str  # "?" for files and modules
    version: str  # of the distribution; "?" for files and modules
    state: Literal["active", "failed", "blocked"]  # failed: left out; blocked: by --no-plugin
    requires_api: str | None = None  # the versions of the API that it works with, if it says so
    kinds: Mapping[str, Sequence[str]] = field(default_factory=dict)  # what it has registered: kind → names
    hooks: Sequence[str] = ()  # that it implements
    options: JsonSchema = field(default_factory=dict)  # its own settings
    request_fields: JsonSchema = field(default_factory=dict)  # of requests that generate: its samplers' and its own
    load_ms: float = 0.0  # importing it, and registering what it has
    error: str | None = None  # why it was left out
