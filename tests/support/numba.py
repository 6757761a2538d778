"""The Numba backend on a GGUF file, for tests of its numbers. It knows its insides only to poison them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from llamafw import BackendContext, BackendOptions
from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins
from llamafw.testing.batches import batch, logits

__all__ = ["KERNELS", "batch", "context", "logits", "opened", "poison"]

KERNELS = ("amx", "avx512vnni", "avx2", "plain")


@cache
def _plugins() -> Plugins:
    return Plugins()


def context(
    path: Path, lines: list[str] | None = None, decoder: dict[str, Any] | None = None, **options: Any
) -> BackendContext:
    """Return what a backend is made from; ``decoder`` replaces parts of the description."""
    plugins = _plugins()
    model = read_gguf(path, plugins.registry("quant"), ())
    described = plugins.registry("architecture")["llama"](model)
    return BackendContext(
        model,
        replace(described, **(decoder or {})),
        BackendOptions(**{"n_slots": 2, "n_threads": 1} | options),
        plugins.registry("quant"),
        (lines if lines is not None else []).append,
    )


@contextmanager
def opened(
    path: Path, lines: list[str] | None = None, decoder: dict[str, Any] | None = None, **options: Any
) -> Iterator[Any]:
    """Open a backend, close it after."""
    from llamafw_backends.numba_cpu.backend import NumbaBackend

    backend = NumbaBackend(context(path, lines, decoder, **options))
    try:
        yield backend
    finally:
        backend.close()


def poison(backend: Any) -> None:
    """Fill every buffer of floats with NaN, and all of the KV cache, which must be empty."""
    ends = ("x", "q", "k", "v", "attended", "records", "floats", "ffn_records", "ffn_floats", "scratch")
    plan = backend._plan
    order = sorted(int(plan[name][0]) for name in plan.dtype.names if plan[name][0] > 2**20)
    for name in ends:
        start = int(plan[name][0])
        size = next(address for address in [*order, start + 4096] if address > start) - start
        backend._buffers.view(start, (size // 4,), np.float32)[...] = np.nan
    backend._logits[...] = np.nan
    keys = int(plan["keys"][0])
    backend._cache.view(keys, (backend._cache.n_bytes // 4 - 64,), np.uint32)[...] = 0xFFFFFFFF  # NaN in both sizes
