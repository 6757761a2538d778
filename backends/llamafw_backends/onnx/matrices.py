"""Products with matrices of the file: block-quantised where the provider has a kernel, otherwise in floats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llamafw import graph as g
from llamafw_backends.onnx.block_formats import BlockCodes, find_format
from llamafw_backends.onnx.model_builder import ModelBuilder

if TYPE_CHECKING:
    from llamafw_backends.onnx.lowering import Lowering


def add_product(low: Lowering, x: str, weight: g.Weight) -> str:
    """Add ``x Wᵀ`` for rows ``x``, ``(n_tokens, …, n_in)``; return the name of the product."""
    codes = _codes(low, weight)
    if codes is not None:
        return add_block_product(low.builder, x, codes, _name(weight))

    name = f"{_name(weight)}.transposed"
    if not low.builder.has_weight(name):
        matrix = low.tensors.floats(weight).astype(low.builder.float_type)
        low.builder.weight(name, np.ascontiguousarray(matrix.T))
    return str(low.builder.node("MatMul", x, name))


def add_block_product(b: ModelBuilder, x: str, codes: BlockCodes, name: str) -> str:
    """Add the product of rows with a block-quantised matrix.

    Weights are ``scale · (code − middle) + offset``, where the middle is half of the codes' range, as MatMulNBits takes
    it. The offsets are multiplied by the sums of the blocks of ``x``.

    Parameters
    ----------
    b : ModelBuilder
        The model.
    x : str
        The rows, ``(…, n_in)``.
    codes : BlockCodes
        The matrix.
    name : str
        The name of the matrix in the model.
    """
    n_out, n_blocks = codes.scales.shape
    n_in = n_blocks * codes.block_size
    parts = (
        b.weight(f"{name}.codes", codes.packed()),
        b.weight(f"{name}.scales", codes.scales.astype(b.float_type)),
    )
    y = b.node(
        "com.microsoft.MatMulNBits",
        x,
        *parts,
        K=n_in,
        N=n_out,
        bits=codes.bits,
        block_size=codes.block_size,
        accuracy_level=0,
    )
    if codes.offsets is None:
        return str(y)
    offsets = b.weight(f"{name}.offsets", np.ascontiguousarray(codes.offsets.T.astype(b.float_type)))
    return str(b.node("Add", y, b.node("MatMul", _block_sums(b, x, codes.block_size, n_in), offsets)))


def _block_sums(b: ModelBuilder, x: str, block_size: int, n_in: int) -> str:
    """Return the sums of the blocks of the rows, ``(…, n_in // block_size)``; added once for each ``x``."""
    key = (x, block_size)
    if key not in b.shared:
        blocks = b.node("Reshape", x, b.ints(0, n_in // block_size, block_size))
        b.shared[key] = b.node("ReduceSum", blocks, b.ints(-1), keepdims=0)
    return str(b.shared[key])


def _codes(low: Lowering, weight: g.Weight) -> BlockCodes | None:
    """Return a matrix as codes; None if its type has no such form or the provider has no kernel for it."""
    quant = low.tensors.quant(weight)
    find = find_format(quant)
    if find is None:
        return None
    codes = find(low.tensors.blocks(weight))
    return codes if low.support.multiplies_blocks(codes.bits, codes.block_size) else None


def _name(weight: g.Weight) -> str:
    return weight.name if weight.last is None else f"{weight.name}[{weight.first}:{weight.last}]"
