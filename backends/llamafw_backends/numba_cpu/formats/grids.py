"""Look up the numbers of codebooks ("grids"), which ggml's IQ types share.

An index of 8 to 11 bits selects an entry of 4 or 8 numbers, which are the weights of adjacent columns up to their signs
and scales. The codebooks are those of the `gguf` package. Entries are loaded from a table in memory, or looked up in
registers where the processor can do that; see `grid_registers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.cpu import has_byte_permutes
from llamafw_backends.numba_cpu.emit import I1, I8, I32, I64, INTS, Builder, Value, constant
from llamafw_backends.numba_cpu.formats.grid_registers import RegisterTable
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.simd import i64, operation, read_u8, store_f32, write_u8
from llamafw_backends.numba_cpu.tiles import Record

Bytes = npt.NDArray[np.uint8]

_LANES = 64  # bytes of a word
_BYTES, _BITS = ir.VectorType(I8, _LANES), ir.VectorType(I1, _LANES)
_ROWS = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]  # in the order that AVX2 unzips fastest

# --- while a model loads ----------------------------------------------------------------------------


@jit
def every_bit(bits: int, step: int) -> int:
    """Return 4 bits of ``bits``: every ``step``-th one, beginning with the first."""
    return (bits & 1) | (bits >> step & 1) << 1 | (bits >> 2 * step & 1) << 2 | (bits >> 3 * step & 1) << 3


@jit
def write_nibble(value: int, nibbles: int, lane: int) -> None:
    """Write 4 bits of a row, as `nibble` and `high_bits` read them."""
    where, shift = nibbles + lane // 2, lane % 2 * 4
    write_u8((read_u8(where) & (0xF0 >> shift)) | value << shift, where)


@jit
def signs_of(packed: int) -> int:
    """Return 32 bits, 1 for the negative ones of 32 numbers; ``packed`` has 7 bits for each 8 of them.

    The eighth bit makes the number of negative ones even.
    """
    signs = packed & 0x7F | (packed & 0x3F80) << 1 | (packed & 0x1FC000) << 2 | (packed & 0xFE00000) << 3
    parity = signs ^ signs >> 4
    parity ^= parity >> 2
    parity ^= parity >> 1
    return signs | (parity & 0x01010101) << 7


@jit
def store_entry(entry: int, n: int, signs: int, offset: int, scale: float, out: int) -> None:
    """Write the ``n`` weights of an entry.

    Parameters
    ----------
    entry : int
        The entry's bytes.
    n : int
        4 or 8.
    signs : int
        A bit for each of them, 1 if it is negative.
    offset : int
        What the bytes have been increased by.
    scale : float
        float32.
    out : int
        Address of the weights.
    """
    for i in range(n):
        number = (entry >> 8 * i & 255) - offset
        store_f32(scale * np.float32(number - 2 * number * (signs >> i & 1)), out + 4 * i)


# --- in kernels -------------------------------------------------------------------------------------


def nibble(record: Record, offset: int) -> Value:
    """Emit loading 4 bits per row as int32, from ``offset`` of the scales, where each record has 8 bytes."""
    b, eight = record.b, ir.VectorType(I8, 8)
    pairs = emit.load(b, record.scale_address(offset, 8), eight)
    low, high = b.and_(pairs, constant(eight, 15)), b.lshr(pairs, constant(eight, 4))
    order = ir.Constant(ir.VectorType(I32, 16), [lane // 2 + lane % 2 * 8 for lane in range(16)])
    return b.zext(b.shuffle_vector(low, high, order), INTS)


def high_bits(record: Record, offset: int, n: int, step: int) -> list[Value]:
    """Emit loading ``n`` bits of each of 64 indices, one vector per bit.

    They are at ``offset`` of the scales, where each record has ``step`` bytes. The bits of 4 adjacent indices of a row
    are a nibble.
    """
    b = record.b
    return [b.bitcast(emit.load(b, record.scale_address(offset + 8 * i, step), I64), _BITS) for i in range(n)]


def spread_bits(record: Record, bits: Value) -> list[Value]:
    """Emit 4 words from a bit per index, as `high_bits` returns it: byte 1 in all columns of the index, or 0."""
    b, numbers = record.b, record.b.zext(bits, _BYTES)
    orders = ([lane // 4 * 4 + i for lane in range(_LANES)] for i in range(4))
    return [b.bitcast(emit.take(b, numbers, order), INTS) for order in orders]


class Grid:
    """A codebook, whose numbers are stored as bytes ``number / unit + offset``.

    Parameters
    ----------
    type_name : str
        The tensor type whose class in `gguf.quants` has the codebook.
    unit : float
        Divides all its numbers.
    offset : int
        Makes them positive.
    """

    def __init__(self, type_name: str, *, unit: float = 1, offset: int) -> None:
        self.type_name, self._unit, self.offset = type_name, unit, offset

    @cached_property
    def entries(self) -> Bytes:
        """The bytes of all entries, ``(n, 4 or 8)``."""
        from gguf import quants  # its import is slow, and only needed to compile a kernel

        kind = getattr(quants, self.type_name)
        kind.init_grid()
        entries: Bytes = (kind.grid[0, 0] / self._unit + self.offset).astype(np.uint8)
        return entries

    @property
    def entry(self) -> Any:
        """An operation for Numba code: return the bytes of the entry with an index, as int64."""

        def emitter(b: Builder, index: Value) -> Value:
            n_bytes = self.entries.shape[1]
            where = b.add(self._table(b), b.mul(index, constant(I64, n_bytes)))
            return b.zext(emit.load(b, where, ir.IntType(8 * n_bytes)), I64)

        return operation(i64, (i64,), emitter)

    def words(
        self,
        record: Record,
        indices: Sequence[Value],
        bits: Sequence[Sequence[Value]],
        signs: Value | None = None,
    ) -> list[Value]:
        """Emit the 8 words of bytes that are selected by words of indices.

        Parameters
        ----------
        record : Record
            Where they are from.
        indices : sequence of Value
            One word if entries have 8 numbers, two if they have 4: the lowest 8 bits of 4 indices per row.
        bits : sequence of sequences of Value
            For each word, the other bits of the indices; see `high_bits`.
        signs : Value, optional
            A word: bit ``g`` of each byte is 1 if its number in word ``g`` is negated, which is stored as
            ``offset − number / unit``.
        """
        if has_byte_permutes():
            return self._registers.words(record.b, indices, bits, signs)
        words = [word for index, high in zip(indices, bits, strict=True) for word in self._load(record.b, index, high)]
        return words if signs is None else self._negate(record.b, words, signs)

    @cached_property
    def _registers(self) -> RegisterTable:
        return RegisterTable(self.entries, self.offset)

    def _table(self, b: Builder) -> Value:
        """Emit the address of all entries."""
        name = f"grid.{self.type_name}.{self._unit}"
        if name not in b.module.globals:
            kind = ir.ArrayType(I8, self.entries.size)
            table = ir.GlobalVariable(b.module, kind, name)
            table.initializer = ir.Constant(kind, bytearray(self.entries.tobytes()))
            table.linkage, table.global_constant, table.align = "internal", True, 64
        return b.ptrtoint(b.module.globals[name], I64)

    def _load(self, b: Builder, index: Value, bits: Sequence[Value]) -> list[Value]:
        """Emit loading the entries of a word of indices; return their words.

        The 4 indices of a row become a scalar of 64 bits: taking them from a vector one by one is slower.
        """
        table, step = self._table(b), self.entries.shape[1] // 4
        entry = ir.IntType(32 * step)
        high = constant(_BYTES, 0)
        for i, bit in enumerate(bits):
            high = b.or_(high, b.select(bit, constant(_BYTES, 1 << i), constant(_BYTES, 0)))
        order = [4 * row + i + part * _LANES for row in _ROWS for i in range(4) for part in (0, 1)]
        pairs = b.shuffle_vector(b.bitcast(index, _BYTES), high, ir.Constant(ir.VectorType(I32, len(order)), order))
        rows = b.bitcast(pairs, ir.VectorType(I64, emit.LANES))

        entries = [ir.Constant(ir.VectorType(entry, emit.LANES), ir.Undefined)] * 4
        for place in range(emit.LANES):
            row = b.extract_element(rows, constant(I32, place))
            for i in range(4):
                number = b.and_(b.lshr(row, constant(I64, 16 * i)), constant(I64, 0xFFFF))
                value = emit.load(b, b.add(table, b.mul(number, constant(I64, 4 * step))), entry)
                entries[i] = b.insert_element(entries[i], value, constant(I32, place))

        words = [b.bitcast(one, ir.VectorType(I32, step * emit.LANES)) for one in entries]
        orders = [[_ROWS.index(row) * step + part for row in range(emit.LANES)] for part in range(step)]
        return [emit.take(b, word, order) for word in words for order in orders]

    def _negate(self, b: Builder, words: Sequence[Value], signs: Value) -> list[Value]:
        """Emit ``2 · offset − x`` for the bytes x that are negated."""
        twice, signs = constant(_BYTES, 2 * self.offset), b.bitcast(signs, _BYTES)
        results = []
        for g, word in enumerate(words):
            is_negative = b.icmp_unsigned("!=", b.and_(signs, constant(_BYTES, 1 << g)), constant(_BYTES, 0))
            numbers = b.bitcast(word, _BYTES)
            results.append(b.bitcast(b.select(is_negative, b.sub(twice, numbers), numbers), INTS))
        return results
