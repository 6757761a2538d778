"""Open the Numba backend on a GGUF file, and fill its unused memory with NaN."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from llamafw import BackendContext, BackendOptions
from llamafw.graph import Graph
from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins


@cache
def _plugins() -> Plugins:
    return Plugins()


def make_context(
    path: Path, lines: list[str] | None = None, *, change: Callable[[Graph], Graph] | None = None, **options: Any
) -> BackendContext:
    """Return the argument of a backend's factory.

    Parameters
    ----------
    path : Path
        A GGUF file.
    lines : list of str, optional
        Receives the lines that the backend logs.
    change : callable, optional
        Changes the model's graph.
    **options
        Fields of `BackendOptions`.
    """
    plugins = _plugins()
    model = read_gguf(path, plugins.registry("quant"), ())
    graph = plugins.registry("architecture")[model.metadata["general.architecture"]](model)
    return BackendContext(
        model,
        change(graph) if change else graph,
        BackendOptions(**{"n_slots": 2, "n_threads": 1} | options),
        plugins.registry("quant"),
        (lines if lines is not None else []).append,
        plugins.registry("operator"),
    )


@contextmanager
def open_backend(path: Path, lines: list[str] | None = None, **options: Any) -> Iterator[Any]:
    """Open a backend, and close it at the end.

    The arguments are those of `make_context`.
    """
    from llamafw_backends.numba_cpu.backend import NumbaBackend

    backend = NumbaBackend(make_context(path, lines, **options))
    try:
        yield backend
    finally:
        backend.close()


def fill_with_nan(backend: Any) -> None:
    """Fill all float buffers and the states of all slots, which must be empty, with NaN."""
    n_bytes = backend._step_bytes
    backend._buffers.view(backend._memory, (n_bytes // 4,), np.float32)[...] = np.nan
    scratch, stride = int(backend._plan["scratch"][0]), int(backend._plan["scratch_stride"][0])
    backend._scratch.view(scratch, (backend._pool.n_threads * stride // 4,), np.float32)[...] = np.nan
    backend._logits[...] = np.nan
    backend._hidden[...] = np.nan
    for keys, values in zip(backend._kv.keys, backend._kv.values, strict=True):
        for part in (*keys, values):
            part[...] = np.iinfo(part.dtype).max  # NaN in each floating-point type
    backend._states._states.view(np.float32)[...] = np.nan
