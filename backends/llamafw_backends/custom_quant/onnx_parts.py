"""What the ONNX Runtime backend runs for the tensor types and the operator of this plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llamafw import Bytes, Floats
from llamafw_backends.custom_quant.hadamard import Hadamard, transform
from llamafw_backends.custom_quant.types import BLOCK, PQ2_0, PTQ1_0
from llamafw_backends.onnx.block_formats import BlockCodes

if TYPE_CHECKING:  # it imports onnx
    from llamafw_backends.onnx.lowering import Lowering


def pq2_0_codes(rows: Bytes) -> BlockCodes:
    """Return the codes of PQ2_0, ``d · (q − 1)``, with q from 0 to 3."""
    d, q = _read(PQ2_0(), rows)
    return BlockCodes(2, q, d, d)


def ptq1_0_codes(rows: Bytes) -> BlockCodes:
    """Return the codes of PTQ1_0, ``d · (q − 1)``, with q from 0 to 2."""
    d, q = _read(PTQ1_0(), rows)
    return BlockCodes(2, q + np.uint8(1), d)


def _read(kind: PQ2_0 | PTQ1_0, rows: Bytes) -> tuple[Floats, Bytes]:
    """Return d, ``(n_rows, n_blocks)``, and q, ``(n_rows, n_blocks, 128)``."""
    n_blocks = rows.shape[1] // kind.type_size
    d, q = kind.read(rows.reshape(-1, kind.type_size))
    return d.reshape(-1, n_blocks), q.reshape(-1, n_blocks, BLOCK)


def lower_hadamard(value: Hadamard, low: Lowering) -> str:
    """Lower a rotation to products with signs and with the matrix of the transform."""
    b, x, (n_blocks, n) = low.builder, low.of(value.x), value.shape
    signs = b.floats(np.resize(value.signs, (1, n_blocks, n)))
    matrix = low.once(("hadamard", n), lambda: b.floats(transform(np.eye(n))))
    if value.inverse:
        return str(b.node("Mul", b.node("MatMul", x, matrix), signs))
    return str(b.node("MatMul", b.node("Mul", x, signs), matrix))
