"""Open the ONNX Runtime backend on a GGUF file, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from llamafw import BackendContext
from support.numba_backend import make_context

CPU: Mapping[str, str] = {"onnx_provider": "cpu"}
"""The flags of the backend."""


@contextmanager
def open_backend(path: Path, **options: Any) -> Iterator[Any]:
    """Open the backend, and close it at the end.

    The arguments are those of `support.numba_backend.make_context`.
    """
    with opened(make_context(path, **options)) as backend:
        yield backend


@contextmanager
def opened(context: BackendContext) -> Iterator[Any]:
    """Open the backend of a context, and close it at the end."""
    from llamafw_backends.onnx.backend import OnnxBackend

    options = context.options
    backend = OnnxBackend(replace(context, options=replace(options, extra={**CPU, **options.extra})))
    try:
        yield backend
    finally:
        backend.close()
