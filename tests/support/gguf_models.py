"""Write a GGUF file and read it with the built-in tensor types."""

from __future__ import annotations

from pathlib import Path

from llamafw import Model
from llamafw.models.gguf import read_gguf
from llamafw_plugins.quants.ggml import TYPES

QUANTS = {quant.name: quant for quant in TYPES}
"""The built-in tensor types by name."""


def write_and_read(path: Path, content: bytes) -> Model:
    """Write a file, read it, and return the model."""
    path.unlink(missing_ok=True)  # so that a model that still maps the old file keeps its content
    path.write_bytes(content)
    return read_gguf(path, QUANTS)
