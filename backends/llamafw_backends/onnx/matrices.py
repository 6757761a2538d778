"""Products with matrices of the file: block-quantised where the provider has a kernel, otherwise in floats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llamafw import graph as g
from llamafw_backends.onnx.block_formats import BlockCodes, Read, find_format
from llamafw_backends.onnx.code_products import INT8, Form, PackedCodes, add_block_product, find_form, pack_rows
from llamafw_backends.onnx.lowering import weight_name

if TYPE_CHECKING:
    from llamafw_backends.onnx.lowering import Lowering


def add_product(low: Lowering, x: str, *weights: g.Weight) -> str:
    """Add ``x Wᵀ`` for rows ``x``, ``(n_tokens, …, n_in)``; return the name of the product.

    Several matrices of one type, one below the other, are one product.
    """
    form = form_of(low, weights[0])
    if form is None:
        return str(low.builder.node("MatMul", x, add_transposed(low, *weights)))
    return add_block_product(low.builder, x, packed_codes(low, form, *weights), form, matrix_name(*weights))


def packed_codes(low: Lowering, form: Form, *weights: g.Weight) -> PackedCodes:
    """Return matrices of one type, one below the other, as the nodes of a form read them."""
    matrices = [(_reader(low, weight), low.tensors.blocks(weight)) for weight in weights]
    return pack_rows(matrices, form, low.builder.float_type)


def add_transposed(low: Lowering, *weights: g.Weight) -> str:
    """Return the name of matrices in floats, one beside the other, ``(n_in, n_out)``; added once."""
    b, name = low.builder, f"{matrix_name(*weights)}.transposed"
    if b.has_weight(name):
        return name
    matrices = [low.tensors.floats(weight).astype(b.float_type) for weight in weights]
    return b.weight(name, np.ascontiguousarray(np.concatenate(matrices).T))


def are_alike(low: Lowering, one: g.Weight, other: g.Weight) -> bool:
    """Return whether two matrices can be one product: their types and numbers of columns are the same."""
    return one.shape[-1] == other.shape[-1] and low.tensors.quant(one).name == low.tensors.quant(other).name


def describe_product(low: Lowering, weight: g.Weight) -> str:
    """Return what a product with the matrix becomes."""
    name = low.tensors.quant(weight).name
    if not has_codes(low, weight):
        return f"MatMul, {name} in {low.builder.float_type}"
    form = form_of(low, weight)
    if form is None:
        return f"MatMul, {name} in {low.builder.float_type}, because the provider has no MatMulNBits for it"
    activations = "int8" if form.accuracy_level == INT8 else str(low.builder.float_type)
    offsets = " and MatMul with offsets" if read_codes(low, weight, n_rows=1).offsets is not None else ""
    return f"MatMulNBits{offsets}, {name} in {form}, activations in {activations}"


def has_codes(low: Lowering, weight: g.Weight) -> bool:
    """Return whether a matrix is of a type that has codes."""
    return find_format(low.tensors.quant(weight)) is not None


def form_of(low: Lowering, weight: g.Weight) -> Form | None:
    """Return the nodes that multiply a matrix; None if its type has no codes, or the provider no nodes for them."""
    if not has_codes(low, weight):
        return None
    codes = read_codes(low, weight, n_rows=1)
    return find_form(low.support, codes.bits, codes.block_size, low.accuracy_level)


def read_codes(low: Lowering, weight: g.Weight, n_rows: int | None = None) -> BlockCodes:
    """Return a matrix whose type has codes, or its first rows, as codes."""
    return _reader(low, weight)(low.tensors.blocks(weight)[:n_rows])


def _reader(low: Lowering, weight: g.Weight) -> Read:
    read = find_format(low.tensors.quant(weight))
    assert read is not None, "the caller asks has_codes"
    return read


def single_node_codes(low: Lowering, weight: g.Weight, n_rows: int | None = None) -> BlockCodes | None:
    """Return a matrix, or its first rows, as codes of 2, 4 or 8 bits, for a node that needs all bits of a code.

    None if its type has no codes.
    """
    if not has_codes(low, weight):
        return None
    codes = read_codes(low, weight, n_rows)
    smallest = 4 if low.support.is_cpu else 2  # on CPUs, 2 bits take a hundred times as long
    return codes.widened(next(bits for bits in (2, 4, 8) if bits >= max(codes.bits, smallest)))


def matrix_name(*weights: g.Weight) -> str:
    """Return the start of the names of a product's tensors."""
    return "+".join(map(weight_name, weights))
