"""The settings that a backend receives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]
"""A type of keys or values in the KV cache."""


@dataclass(frozen=True, slots=True)
class ThreadOptions:
    """Scheduling of the threads that compute."""

    cpus: frozenset[int] = frozenset()  # numbers of the processors they may use; empty: any
    strict: bool = False  # pin each thread to one of these processors, in order
    priority: int = 0  # -1: low, 0: normal, 1: medium, 2: high, 3: realtime
    poll: int = 50  # how long an idle thread spins before it sleeps, from 0 (not at all) to 100


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """Placement of the model on GPUs."""

    n_layers: int | None = None  # layers on GPUs; None: the backend decides
    split_mode: Literal["none", "layer", "row", "tensor"] = "layer"  # how to divide the model among several GPUs
    tensor_split: tuple[float, ...] = ()  # share of each GPU, in any unit; empty: the backend decides
    main_gpu: int = 0  # with "none": the only GPU used; with "row": the GPU that holds intermediate results
    kv_offload: bool = True  # False: keep the KV cache in host memory


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """Settings for running a model.

    A backend logs the settings that it cannot apply.
    """

    n_slots: int = 1  # sequences held at the same time
    n_ctx: int = 0  # positions per slot; 0: the model's training context
    n_batch: int = 2048  # maximum number of tokens per call of forward
    n_ubatch: int = 512  # maximum number of tokens computed at once
    n_threads: int = 0  # threads for decoding; 0: one per physical core
    n_threads_batch: int = 0  # threads for prompts; 0: same as n_threads
    cache_type_k: CacheType = "f16"  # data type of cached keys
    cache_type_v: CacheType = "f16"  # data type of cached values
    n_snapshots: int = 8  # maximum number of snapshots per slot, for models whose slots cannot be cut anywhere
    swa_full: bool = False  # layers with a window keep all positions: more memory, but slots can be cut anywhere
    threads: ThreadOptions = ThreadOptions()  # for decoding
    threads_batch: ThreadOptions = ThreadOptions()  # for prompts
    numa: Literal["distribute", "isolate", "numactl"] | None = None  # how to place threads on NUMA nodes
    lock_memory: bool = False  # lock the weights in memory so that they are never swapped out
    flash_attention: bool | None = None  # None: the backend decides
    gpu: GpuOptions = GpuOptions()  # placement on GPUs
    extra: Mapping[str, Any] = field(default_factory=dict)  # values of the flags that plugins added
