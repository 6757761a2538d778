"""Open the Numba backend on a GGUF file, and fill its unused memory with NaN."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw import BackendContext, BackendOptions, Floats
from llamafw.graph import Graph
from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins


@cache
def _plugins() -> Plugins:
    return Plugins()


def make_context(
    path: Path, lines: list[str] | None = None, *, change: Callable[[Graph], Graph | None] | None = None, **options: Any
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
    changed = change(graph) if change else graph
    assert changed is not None
    return BackendContext(
        model,
        changed,
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


def cached_keys(backend: Any, number: int = 0) -> Floats:
    """Return the keys of a cache, ``(n_slots, n_head, n_positions, key_size)`` float32."""
    from llamafw_backends.numba_cpu.key_rotation import write_floats

    arrays, kind = backend._kv.caches[number], backend._kv.types[0]
    name, size = kind.name, backend._kv.layouts[number].key_size
    block_bytes = kind.format.tile_bytes(size)
    parts = [_of_slots(arrays, part) for part in (arrays.words, arrays.key_scales)]
    shape = parts[0].shape[:3]
    blocks = np.concatenate([part.reshape(*shape, -1).view(np.uint8) for part in parts if part.size], axis=-1)
    blocks = np.pad(blocks, [(0, 0)] * 3 + [(0, block_bytes - blocks.shape[-1])])

    def read(blocks: int, n: int, out: int) -> int:
        for i in range(n):
            write_floats(size, name, (blocks + i * block_bytes, out + 64 * size * i))
        return 0

    keys = np.zeros((*shape, size, 16), np.float32)
    kernel = backend._compiler(f"read {name} keys of {size}", 3, read).ctypes
    kernel(blocks.ctypes.data, math.prod(shape), keys.ctypes.data)
    return keys.swapaxes(3, 4).reshape(*shape[:2], -1, size)


def cached_values(backend: Any, number: int = 0) -> npt.NDArray[np.uint8]:
    """Return the values of a cache in the layout of files, ``(n_slots, n_head, n_positions, n_bytes)``."""
    arrays, n_scales = backend._kv.caches[number], backend._kv.types[1].n_scales
    rows: npt.NDArray[np.uint8] = _of_slots(arrays, arrays.rows)
    if not n_scales:
        return rows
    shape = *rows.shape[:3], -1
    scales = _of_slots(arrays, arrays.value_scales).swapaxes(3, 4).copy().view(np.uint8).reshape(*shape, 2 * n_scales)
    return np.concatenate([scales, rows.reshape(*scales.shape[:4], -1)], axis=-1).reshape(shape)


def _of_slots(arrays: Any, part: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a part of a cache with the positions of each slot in order, ``(n_slots, n_head, …)``."""
    return np.stack([arrays.read(part, slot, 0, arrays.n_positions) for slot in range(len(part))])


def fill_with_nan(backend: Any) -> None:
    """Fill all float buffers and the states of all slots, which must be empty, with NaN."""
    n_bytes = backend._step_bytes
    backend._buffers.view(backend._memory, (n_bytes // 4,), np.float32)[...] = np.nan
    for name in ("scratch", "buffer"):
        start, stride = int(backend._plan[name][0]), int(backend._plan[f"{name}_stride"][0])
        backend._scratch.view(start, (backend._pool.n_threads * stride // 4,), np.float32)[...] = np.nan
    backend._logits[...] = np.nan
    backend._hidden[...] = np.nan
    for arrays in backend._kv.caches:
        for part in (*arrays.by_lane, arrays.rows):
            part[...] = np.iinfo(part.dtype).max  # NaN in each floating-point type
    backend._states._states.view(np.float32)[...] = np.nan
