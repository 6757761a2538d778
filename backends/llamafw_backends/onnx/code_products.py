"""Multiplies rows with block-quantised matrices: with one MatMulNBits, or with the sum of two.

MatMulNBits has codes of 2, 4 and 8 bits. Codes of 6 bits are divided into their high and their low bits,
``code = 4 · high + low``, for two nodes that share the activations and the scales. So they take 6 bits on a device, not
8. Where a provider lacks a node, codes are widened.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from llamafw import Bytes
from llamafw_backends.onnx.block_formats import BlockCodes, Codes, Read, pack_codes
from llamafw_backends.onnx.model_builder import Array, ModelBuilder
from llamafw_backends.onnx.probes import multiplies_blocks
from llamafw_backends.onnx.support import Support

INT8 = 4
"""The accuracy level of MatMulNBits that rounds the blocks of activations to 8 bits."""

GPU_BITS = ((2,), (4,), (4, 2), (8,))
CPU_BITS = ((4,), (4, 4), (8,))
"""The bits of the nodes, the best ones first. On CPUs, products of floats with 2 bits take a hundred times as long as
with 4, and those with 8 bits have no fast kernel."""

INT8_BITS = ((4,), (8,))
"""The same for activations that are rounded to 8 bits, on CPUs."""

CHUNK_BYTES = 2**18
"""Bytes of a matrix that a thread converts at once: what that needs stays in its cache."""

MAX_THREADS = 8
"""How many threads convert a matrix at most."""


@dataclass(frozen=True, slots=True)
class Form:
    """The nodes that multiply a matrix.

    Attributes
    ----------
    bits : tuple of int
        The bits of each node's codes; the first node has the high bits of a code.
    accuracy_level : int
        0: products of floats; `INT8`: activations are rounded to 8 bits.
    """

    bits: tuple[int, ...]
    accuracy_level: int = 0

    def __str__(self) -> str:
        return f"{' + '.join(map(str, self.bits))} bits"


@dataclass(frozen=True, slots=True)
class PackedCodes:
    """A matrix as the nodes of a form read it.

    Attributes
    ----------
    parts : tuple of array
        ``(n_rows, n_blocks, n_bytes)`` uint8 for each node.
    scales : array
        ``(n_rows, n_blocks)`` in the type of the activations.
    offsets : array, optional
        The same for offsets; None: they are 0.
    block_size : int
        Weights per block.
    """

    parts: tuple[Codes, ...]
    scales: Array
    offsets: Array | None
    block_size: int


@dataclass(frozen=True, slots=True)
class StoredCodes:
    """The names of a matrix's tensors in a model.

    Attributes
    ----------
    codes : tuple of str
        ``(n_rows, n_blocks, n_bytes)`` uint8 for each node.
    scales : str
        ``(n_rows, n_blocks)``.
    offsets : str
        ``(n_blocks, n_rows)``; "" if they are 0.
    """

    codes: tuple[str, ...]
    scales: str
    offsets: str


def find_form(support: Support, n_bits: int, block_size: int, accuracy_level: int = 0) -> Form | None:
    """Return the best nodes that a provider has for codes of so many bits; None if it has none.

    Parameters
    ----------
    support : Support
        What the provider can run.
    n_bits, block_size : int
        The bits of a code, and the weights of a block.
    accuracy_level : int
        The level that is wanted; the nodes have level 0 if the provider has none of it.
    """
    forms = [Form(bits, accuracy_level) for bits in INT8_BITS if accuracy_level]
    forms += [Form(bits) for bits in (CPU_BITS if support.is_cpu else GPU_BITS)]
    return next((form for form in forms if sum(form.bits) >= n_bits and _runs(support, form, block_size)), None)


def _runs(support: Support, form: Form, block_size: int) -> bool:
    return all(
        multiplies_blocks(support, bits, block_size, form.accuracy_level, has_zero_points=i > 0)
        for i, bits in enumerate(form.bits)
    )


def pack(codes: BlockCodes, form: Form, float_type: np.dtype[Any]) -> PackedCodes:
    """Return a matrix as the nodes of a form read it."""
    shift, parts = sum(form.bits), []
    whole = codes.widened(shift).codes
    for bits in form.bits:
        shift -= bits
        parts.append(pack_codes(whole >> np.uint8(shift) & np.uint8(2**bits - 1), bits))
    offsets = None if codes.offsets is None else codes.offsets.astype(float_type)
    return PackedCodes(tuple(parts), codes.scales.astype(float_type), offsets, codes.block_size)


def pack_rows(matrices: Sequence[tuple[Read, Bytes]], form: Form, float_type: np.dtype[Any]) -> PackedCodes:
    """Return matrices, one below the other, as the nodes of a form read them; threads share the work.

    Parameters
    ----------
    matrices : sequence of (callable, array)
        What reads the codes of each one, and the bytes of its rows, ``(n_rows, n_bytes)`` uint8.
    form : Form
        The nodes.
    float_type : numpy type
        The type of scales and offsets.
    """
    read, rows = matrices[0]
    like = pack(read(rows[:1]), form, float_type)
    n_rows, n_at_once = sum(len(rows) for _, rows in matrices), max(1, CHUNK_BYTES // rows.shape[1])
    packed = PackedCodes(
        tuple(np.empty((n_rows, *part.shape[1:]), part.dtype) for part in like.parts),
        np.empty((n_rows, like.scales.shape[1]), float_type),
        None if like.offsets is None else np.empty((n_rows, like.scales.shape[1]), float_type),
        like.block_size,
    )

    def convert(task: tuple[Read, Bytes, int]) -> None:
        read, rows, first = task
        one, place = pack(read(rows), form, float_type), slice(first, first + len(rows))
        for whole, part in zip(packed.parts, one.parts, strict=True):
            whole[place] = part
        packed.scales[place] = one.scales
        if packed.offsets is not None:
            packed.offsets[place] = one.offsets

    ends = np.cumsum([len(rows) for _, rows in matrices]).tolist()
    tasks = [
        (read, rows[start : start + n_at_once], end - len(rows) + start)
        for (read, rows), end in zip(matrices, ends, strict=True)
        for start in range(0, len(rows), n_at_once)
    ]
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:
        list(pool.map(convert, tasks))
    return packed


def add_block_product(b: ModelBuilder, x: str, codes: PackedCodes, form: Form, name: str) -> str:
    """Add the product of rows with a block-quantised matrix.

    Weights are ``scale · (code − middle) + offset``, where the middle is half of the codes' range, as MatMulNBits takes
    it. Low bits have zero points of 0 instead. The offsets are multiplied by the sums of the blocks of ``x``.

    Parameters
    ----------
    b : ModelBuilder
        The model.
    x : str
        The rows, ``(…, n_in)``.
    codes : PackedCodes
        The matrix.
    form : Form
        The nodes.
    name : str
        The name of the matrix in the model.
    """
    n_out, n_blocks = codes.scales.shape
    n_in, shift, y = n_blocks * codes.block_size, sum(form.bits), ""
    stored = add_codes(b, codes, form, name)
    for bits, part in zip(form.bits, stored.codes, strict=True):
        product = b.node(
            "com.microsoft.MatMulNBits",
            x,
            part,
            stored.scales,
            *([_zero_points(b, bits, n_out, n_blocks)] if y else []),
            K=n_in,
            N=n_out,
            bits=bits,
            block_size=codes.block_size,
            accuracy_level=form.accuracy_level,
        )
        shift -= bits
        if shift:
            product = b.node("Mul", product, b.floats(2**shift))
        y = b.node("Add", y, product) if y else product
    if stored.offsets:
        y = b.node("Add", y, b.node("MatMul", block_sums(b, x, codes.block_size, n_in), stored.offsets))
    return y


def add_codes(b: ModelBuilder, codes: PackedCodes, form: Form, name: str) -> StoredCodes:
    """Add the tensors of a matrix to a model, unless they have been added."""
    endings = ("high", "low") if len(form.bits) > 1 else ("codes",)
    names = [b.weight(f"{name}.{ending}", part) for ending, part in zip(endings, codes.parts, strict=True)]
    scales, offsets = b.weight(f"{name}.scales", codes.scales), ""
    if codes.offsets is not None:
        offsets = b.weight(f"{name}.offsets", np.ascontiguousarray(codes.offsets.T))
    return StoredCodes(tuple(names), scales, offsets)


def _zero_points(b: ModelBuilder, bits: int, n_out: int, n_blocks: int) -> str:
    """Return zero points of 0, which all matrices of a shape share."""
    shape = n_out, -(-n_blocks * bits // 8)
    return b.weight(f"zero_points.{bits}_bits.{n_out}x{n_blocks}", np.zeros(shape, np.uint8))


def block_sums(b: ModelBuilder, x: str, block_size: int, n_in: int) -> str:
    """Return the sums of the blocks of the rows, ``(…, n_in // block_size)``; added once for each ``x``."""
    key = (x, block_size)
    if key not in b.shared:
        blocks = b.node("Reshape", x, b.ints(0, n_in // block_size, block_size))
        b.shared[key] = b.node("ReduceSum", blocks, b.ints(-1), keepdims=0)
    return str(b.shared[key])
