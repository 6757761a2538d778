"""Products with matrices of the file: block-quantised where the provider has a kernel, otherwise in floats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from llamafw import graph as g
from llamafw_backends.onnx.block_formats import BlockCodes, find_format
from llamafw_backends.onnx.model_builder import ModelBuilder
from llamafw_backends.onnx.probes import multiplies_blocks

if TYPE_CHECKING:
    from llamafw_backends.onnx.lowering import Lowering

INT8 = 4
"""The accuracy level of MatMulNBits that rounds the blocks of activations to 8 bits."""


def add_product(low: Lowering, x: str, *weights: g.Weight) -> str:
    """Add ``x Wᵀ`` for rows ``x``, ``(n_tokens, …, n_in)``; return the name of the product.

    Several matrices of one type, one below the other, are one product.
    """
    b, name = low.builder, "+".join(map(_name, weights))
    found = [block_codes(low, weight) for weight in weights]
    codes = [one for one in found if one is not None]
    if len(codes) == len(weights):
        level = _accuracy_level(low, codes[0])
        parts = _in_parts(_joined(codes), name) if _is_slow(low, codes[0], level) else {name: _joined(codes)}
        products = [add_block_product(b, x, part, key, level) for key, part in parts.items()]
        return products[0] if len(products) == 1 else str(b.node("Add", *products))

    name = f"{name}.transposed"
    if not b.has_weight(name):
        matrices = [low.tensors.floats(weight).astype(b.float_type) for weight in weights]
        b.weight(name, np.ascontiguousarray(np.concatenate(matrices).T))
    return str(b.node("MatMul", x, name))


def add_block_product(b: ModelBuilder, x: str, codes: BlockCodes, name: str, accuracy_level: int = 0) -> str:
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
    accuracy_level : int
        0: products of floats; `INT8`: activations are rounded to 8 bits.
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
        accuracy_level=accuracy_level,
    )
    if codes.offsets is None:
        return str(y)
    offsets = b.weight(f"{name}.offsets", np.ascontiguousarray(codes.offsets.T.astype(b.float_type)))
    return str(b.node("Add", y, b.node("MatMul", block_sums(b, x, codes.block_size, n_in), offsets)))


def are_alike(low: Lowering, one: g.Weight, other: g.Weight) -> bool:
    """Return whether two matrices can be one product: their types and numbers of columns are the same."""
    return one.shape[-1] == other.shape[-1] and low.tensors.quant(one).name == low.tensors.quant(other).name


def describe_product(low: Lowering, weight: g.Weight) -> str:
    """Return what a product with the matrix becomes."""
    quant = low.tensors.quant(weight)
    if find_format(quant) is None:
        return f"MatMul, {quant.name} in {low.builder.float_type}"
    codes = block_codes(low, weight, n_rows=1)
    if codes is None:
        return f"MatMul, {quant.name} in {low.builder.float_type}, because the provider has no MatMulNBits for it"
    level = _accuracy_level(low, codes)
    activations = "int8" if level == INT8 else str(low.builder.float_type)
    is_slow = _is_slow(low, codes, level)
    offsets = " and MatMul with offsets" if is_slow or codes.offsets is not None else ""
    bits = "twice 4 bits" if is_slow else f"{codes.bits} bits"
    return f"MatMulNBits{offsets}, {quant.name} in {bits}, activations in {activations}"


def block_sums(b: ModelBuilder, x: str, block_size: int, n_in: int) -> str:
    """Return the sums of the blocks of the rows, ``(…, n_in // block_size)``; added once for each ``x``."""
    key = (x, block_size)
    if key not in b.shared:
        blocks = b.node("Reshape", x, b.ints(0, n_in // block_size, block_size))
        b.shared[key] = b.node("ReduceSum", blocks, b.ints(-1), keepdims=0)
    return str(b.shared[key])


def block_codes(low: Lowering, weight: g.Weight, n_rows: int | None = None) -> BlockCodes | None:
    """Return a matrix, or its first rows, as codes; None if it has no such form or the provider no kernel for it."""
    find = find_format(low.tensors.quant(weight))
    if find is None:
        return None
    codes = find(low.tensors.blocks(weight)[:n_rows])
    if codes.bits == 2 and low.builder.float_type == np.float32:
        codes = _widened(codes)  # on CPUs, 2 bits take a hundred times as long
    return codes if multiplies_blocks(low.support, codes.bits, codes.block_size, 0) else None


def _accuracy_level(low: Lowering, codes: BlockCodes) -> int:
    """Return the accuracy level for a matrix: `INT8` where that is wanted and works."""
    if low.accuracy_level and multiplies_blocks(low.support, codes.bits, codes.block_size, low.accuracy_level):
        return low.accuracy_level
    return 0


def _is_slow(low: Lowering, codes: BlockCodes, accuracy_level: int) -> bool:
    """Return whether the product is one of floats with codes of 8 bits on a CPU, for which there is no fast kernel."""
    return codes.bits == 8 and accuracy_level == 0 and low.builder.float_type == np.float32


def _in_parts(codes: BlockCodes, name: str) -> dict[str, BlockCodes]:
    """Return codes of 8 bits as two matrices of 4 bits, by name, whose sum is the same."""
    offsets = 8 * codes.scales + (0 if codes.offsets is None else codes.offsets)
    return {
        f"{name}.high": BlockCodes(4, codes.codes >> np.uint8(4), 16 * codes.scales, offsets.astype(np.float32)),
        f"{name}.low": BlockCodes(4, codes.codes & np.uint8(15), codes.scales),
    }


def _widened(codes: BlockCodes) -> BlockCodes:
    """Return codes of 2 bits as codes of 4 bits."""
    return BlockCodes(4, codes.codes + np.uint8(6), codes.scales, codes.offsets)


def _joined(codes: Sequence[BlockCodes]) -> BlockCodes:
    """Return matrices, one below the other, as one."""
    if len(codes) == 1:
        return codes[0]
    offsets = [one.offsets for one in codes if one.offsets is not None]
    return BlockCodes(
        codes[0].bits,
        np.concatenate([one.codes for one in codes]),
        np.concatenate([one.scales for one in codes]),
        np.concatenate(offsets) if offsets else None,
    )


def _name(weight: g.Weight) -> str:
    return weight.name if weight.last is None else f"{weight.name}[{weight.first}:{weight.last}]"
