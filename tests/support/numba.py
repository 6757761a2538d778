"""Open the Numba backend on a GGUF file, and fill its unused memory with NaN."""

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

__all__ = ["ISA_NAMES", "batch", "context", "fill_with_nan", "logits", "opened"]

ISA_NAMES = ("amx", "avx512vnni", "avx2", "plain")


@cache
def _plugins() -> Plugins:
    return Plugins()


def context(
    path: Path, lines: list[str] | None = None, decoder: dict[str, Any] | None = None, **options: Any
) -> BackendContext:
    """Return the arguments of a backend.

    Parameters
    ----------
    path : Path
        A GGUF file of the llama architecture.
    lines : list of str, optional
        Receives the lines that the backend logs.
    decoder : dict, optional
        Fields of the description to replace.
    options : dict
        Further fields of `BackendOptions`.
    """
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
    """Open a backend, and close it at the end. The arguments are those of `context`."""
    from llamafw_backends.numba_cpu.backend import NumbaBackend

    backend = NumbaBackend(context(path, lines, decoder, **options))
    try:
        yield backend
    finally:
        backend.close()


def fill_with_nan(backend: Any) -> None:
    """Fill all float buffers and the KV cache, which must be empty, with NaN."""
    buffers = ("x", "q", "k", "v", "attention_out", "records", "floats", "ffn_records", "ffn_floats", "scratch")
    plan = backend._plan
    order = sorted(int(plan[name][0]) for name in plan.dtype.names if plan[name][0] > 2**20)
    for name in buffers:
        start = int(plan[name][0])
        size = next(address for address in [*order, start + 4096] if address > start) - start
        backend._buffers.view(start, (size // 4,), np.float32)[...] = np.nan
    backend._logits[...] = np.nan
    keys = int(plan["keys"][0])
    backend._cache.view(keys, (backend._cache.n_bytes // 4 - 64,), np.uint32)[...] = (
        0xFFFFFFFF  # NaN as float16 and as float32
    )
