"""Protocols for tensor types and architectures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from llamafw.graph import Graph
from llamafw.types import Bytes, Floats, Model


class Quant(Protocol):
    """A ggml tensor type: the layout of its blocks, and their conversion to float32.

    Used while a model loads.

    A type may also have the attribute ``backends``, a mapping like that of `llamafw.Operator`: what a backend computes
    with, by the name of the backend. It may be a text such as ``"my_package.kernels:MyFormat"``, which is imported only
    when a model needs it. A backend without an entry has a kernel of its own, or uses `dequantize`.

    A type may also have the attribute ``old_type_ids``, numbers that older files use for it, and that another type has
    now. The sizes of a file's tensors tell which of the two it has.
    """

    @property
    def name(self) -> str:
        """Name of the type: ``"Q4_1"``."""

    @property
    def type_id(self) -> int:
        """Number of the type in GGUF files."""

    @property
    def block_size(self) -> int:
        """Weights per block."""

    @property
    def type_size(self) -> int:
        """Bytes per block."""

    def dequantize(self, data: Bytes, shape: Sequence[int]) -> Floats:
        """Return the exact weights of the blocks in ``data``, ``(n_bytes,)`` uint8, as float32 of ``shape``."""


class Quantizer(Quant, Protocol):
    """A tensor type that weights can be rounded to: what ``--requantize`` and ``llamafw quantize --type`` accept.

    A `Quant` need not have the method. It is used while a model loads, or while a file is written.
    """

    def quantize(self, values: Floats, importance: Floats | None = None) -> Bytes:
        """Round weights to the type.

        Called with some rows of a tensor at a time, on several threads at once.

        Parameters
        ----------
        values : (n_rows, n_columns) float32
            The weights. They are finite, and rows are whole blocks.
        importance : (n_columns,) float32, optional
            How much errors in each column matter, in relation to the others; not negative. A type may ignore it. None:
            they matter the same.

        Returns
        -------
        (n_rows, n_columns // block_size * type_size) uint8
            The blocks, such that `dequantize` returns weights close to ``values``. They depend on the block's values
            and importance only.
        """


class Architecture(Protocol):
    """Describes the computation of a model as a graph of operators.

    Called once per model.
    """

    def __call__(self, model: Model) -> Graph:
        """Return the graph of ``model``; raise ModelError if metadata or tensors are missing or invalid."""
