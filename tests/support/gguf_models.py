"""GGUF files read with our own tensor types."""

from __future__ import annotations

from pathlib import Path

from llamafw import Model
from llamafw.models.gguf import read_gguf
from llamafw_plugins.quants.ggml import TYPES

QUANTS = {quant.name: quant for quant in TYPES}


def read(path: Path, content: bytes) -> Model:
    """Write a file, and return the model in it."""
    path.unlink(missing_ok=True)  # a model of the old content may still be mapped
    path.write_bytes(content)
    return read_gguf(path, QUANTS)
