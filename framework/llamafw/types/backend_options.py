"""The settings that a backend receives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class ThreadOptions:
    """How the operating system is to run threads that compute."""

    cpus: frozenset[int] = frozenset()  # the processors they may use, by number; none: any
    strict: bool = False  # each has one of them for itself, in order
    priority: int = 0  # -1: low, 0: normal, 1: medium, 2: high, 3: realtime
    poll: int = 50  # how long they look out for work before they sleep, from 0 (not at all) to 100


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """What of a model is to lie on which GPU."""

    n_layers: int | None = None  # on GPUs; None: as the backend finds best
    split_mode: Literal["none", "layer", "row"] = "layer"  # how several GPUs share the model
    tensor_split: tuple[float, ...] = ()  # the share of each GPU, in any unit; none: as the backend finds best
    main_gpu: int = 0  # the one for all, with "none"; for intermediate results, with "row"
    kv_offload: bool = True  # False: the KV cache stays in host memory


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """How a backend is to run a model. A backend logs which of these it cannot follow."""

    n_slots: int = 1  # sequences held at a time
    n_ctx: int = 0  # positions per slot; 0: the model's training context
    n_batch: int = 2048  # most tokens in one call of forward
    n_ubatch: int = 512  # most tokens computed at once
    n_threads: int = 0  # for decoding; 0: one per physical core
    n_threads_batch: int = 0  # for prompts; 0: as n_threads
    cache_type_k: Literal["f16", "f32"] = "f16"  # how keys are stored
    cache_type_v: Literal["f16", "f32"] = "f16"  # how values are stored
    threads: ThreadOptions = ThreadOptions()  # for decoding
    threads_batch: ThreadOptions = ThreadOptions()  # for prompts
    numa: Literal["distribute", "isolate", "numactl"] | None = None  # how threads are spread over NUMA nodes
    lock_memory: bool = False  # keep the weights from being swapped out
    flash_attention: bool | None = None  # None: as the backend finds best
    gpu: GpuOptions = GpuOptions()  # what lies where
    extra: Mapping[str, Any] = field(default_factory=dict)  # what plugins' own flags were set to
