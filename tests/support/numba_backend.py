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
from llamafw.graph import as_decoder
from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins


@cache
def _plugins() -> Plugins:
    return Plugins()


def make_context(
    path: Path, lines: list[str] | None = None, decoder: dict[str, Any] | None = None, **options: Any
) -> BackendContext:
    """Return the argument of a backend's factory.

    Parameters
    ----------
    path : Path
        A GGUF file of the llama architecture.
    lines : list of str, optional
        Receives the lines that the backend logs.
    decoder : dict, optional
        Fields of the model's `Decoder` to replace.
    **options
        Fields of `BackendOptions`.
    """
    plugins = _plugins()
    model = read_gguf(path, plugins.registry("quant"), ())
    description = as_decoder(plugins.registry("architecture")["llama"](model))
    return BackendContext(
        model,
        replace(description, **(decoder or {})),
        BackendOptions(**{"n_slots": 2, "n_threads": 1} | options),
        plugins.registry("quant"),
        (lines if lines is not None else []).append,
    )


@contextmanager
def open_backend(
    path: Path, lines: list[str] | None = None, decoder: dict[str, Any] | None = None, **options: Any
) -> Iterator[Any]:
    """Open a backend, and close it at the end.

    The arguments are those of `make_context`.
    """
    from llamafw_backends.numba_cpu.backend import NumbaBackend

    backend = NumbaBackend(make_context(path, lines, decoder, **options))
    try:
        yield backend
    finally:
        backend.close()


def fill_with_nan(backend: Any) -> None:
    """Fill all float buffers and the KV cache, which must be empty, with NaN."""
    buffers = ("x", "q", "k", "v", "attention_out", "records", "floats", "ffn_records", "ffn_floats", "scratch")
    plan = backend._plan
    addresses = sorted(int(plan[name][0]) for name in plan.dtype.names if plan[name][0] > 2**20)

    for name in buffers:
        start = int(plan[name][0])
        end = next(address for address in [*addresses, start + 4096] if address > start)  # where the next buffer starts
        backend._buffers.view(start, ((end - start) // 4,), np.float32)[...] = np.nan
    backend._logits[...] = np.nan

    backend._kv._keys[...] = np.nan
    backend._kv._values[...] = np.nan
