"""Protocols for tensor types and architectures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from llamafw.types import Bytes, Decoder, Floats, Model


class Quant(Protocol):
    """A ggml tensor type: how its bytes are laid out and what they mean. Called while a model loads."""

    @property
    def name(self) -> str:
        """The type's name: ``"Q4_1"``."""

    @property
    def type_id(self) -> int:
        """Its number in GGUF files."""

    @property
    def block_size(self) -> int:
        """Weights per block."""

    @property
    def type_size(self) -> int:
        """Bytes per block."""

    def dequantize(self, data: Bytes, shape: Sequence[int]) -> Floats:
        """Return the weights in ``data``, whole blocks, ``(n_bytes,)`` uint8, exactly, as float32 of ``shape``."""


class Architecture(Protocol):
    """Reads a model's metadata into a description that backends run. Called once per model."""

    def __call__(self, model: Model) -> Decoder:
        """Return the description; ModelError if metadata or tensors are missing or impossible."""
