"""Look up codebooks in registers, with the byte permutes of AVX-512 VBMI.

64 indices are looked up at once. An entry is two bytes with a code of 2 or 3 bits for each of its numbers, so there are
two tables of bytes. Then the codes are moved to the columns that they belong to, and replaced by their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.emit import I8, I32, INTS, Builder, Value, constant

Bytes = npt.NDArray[np.uint8]

_LANES = 64  # bytes of a word
_BYTES = ir.VectorType(I8, _LANES)
_INDEX_BITS = 6  # of an index of a register


class RegisterTable:
    """A codebook of bytes.

    Parameters
    ----------
    entries : (n, 4 or 8) uint8
        At most 4 different bytes if entries have 8 of them, and 8 if they have 4.
    offset : int
        A byte x is negated to ``2 · offset − x``.
    """

    def __init__(self, entries: Bytes, offset: int) -> None:
        self._numbers, self._offset = np.unique(entries), offset
        self._is_long = entries.shape[1] == 8
        self._code_bits, self._field_bits = (2, 2) if self._is_long else (3, 4)

        codes, half = np.searchsorted(self._numbers, entries), entries.shape[1] // 2
        shifts = np.arange(half) * self._field_bits
        self._tables = [(codes[:, i : i + half] << shifts).sum(1).astype(np.uint8) for i in (0, half)]

    def words(
        self, b: Builder, indices: Sequence[Value], bits: Sequence[Sequence[Value]], signs: Value | None
    ) -> list[Value]:
        """Emit the 8 words of bytes; see `grids.Grid.words`."""
        found = [place for index, high in zip(indices, bits, strict=True) for place in self._find(b, index, high)]
        if signs is None:
            return [self._unsigned(b, codes, first) for codes, first in found]
        return [self._signed(b, codes, first, signs, g) for g, (codes, first) in enumerate(found)]

    def _find(self, b: Builder, index: Value, bits: Sequence[Value]) -> list[tuple[Value, int]]:
        """Emit looking up a word of indices.

        Returns
        -------
        list of (vector, int)
            For each word of numbers, a vector of 16 lanes of 4 bytes, and the bit of a lane at which its codes begin.
        """
        low, high = (_look_up(b, table, b.bitcast(index, _BYTES), bits) for table in self._tables)
        if self._is_long:  # a byte has the codes of a lane of a word
            return [(half, 8 * i) for i in range(4) for half in (low, high)]

        results = []
        for i in (0, 2):  # join the two bytes of an entry; a lane has two entries of a row
            order = [lane // 4 * 4 + i + lane % 4 // 2 + lane % 2 * _LANES for lane in range(_LANES)]
            joined = b.shuffle_vector(low, high, ir.Constant(ir.VectorType(I32, _LANES), order))
            results += [(joined, 0), (joined, 16)]
        return results

    def _move(self, b: Builder, codes: Value, first: int) -> Value:
        """Emit moving codes that begin at bit ``first`` of a lane to a byte each; other codes are in its upper bits."""
        control = [(first + 32 * (lane % 8 // 4) + self._field_bits * (lane % 4)) % 64 for lane in range(_LANES)]
        return emit.call(b, "llvm.x86.avx512.pmultishift.qb.512", _BYTES, [_constant(control), codes])

    def _unsigned(self, b: Builder, codes: Value, first: int) -> Value:
        """Emit a word of numbers, which are multiples of their codes."""
        shift = int(self._numbers[1]).bit_length() - 1
        assert (self._numbers == np.arange(len(self._numbers)) << shift).all()
        mask = ((1 << self._code_bits) - 1) << shift
        return b.bitcast(b.and_(self._move(b, codes, first - shift), constant(_BYTES, mask)), INTS)

    def _signed(self, b: Builder, codes: Value, first: int, signs: Value, g: int) -> Value:
        """Emit word ``g`` of numbers, with its signs: a code and a sign are an index of a register."""
        mask, n_signs = (1 << self._code_bits) - 1, _INDEX_BITS - self._code_bits
        shift, bit = self._code_bits - g // n_signs * n_signs, self._code_bits + g % n_signs
        moved = b.shl(signs, constant(INTS, shift)) if shift >= 0 else b.lshr(signs, constant(INTS, -shift))
        index = b.or_(
            b.and_(self._move(b, codes, first), constant(_BYTES, mask)),
            b.and_(b.bitcast(moved, _BYTES), constant(_BYTES, 255 - mask)),
        )

        indices = np.arange(_LANES)
        numbers = self._numbers[(indices & mask).clip(max=len(self._numbers) - 1)]
        numbers = np.where(indices >> bit & 1, 2 * self._offset - numbers, numbers)
        return b.bitcast(emit.call(b, "llvm.x86.avx512.permvar.qi.512", _BYTES, [_constant(numbers), index]), INTS)


def _constant(values: npt.ArrayLike) -> Value:
    return ir.Constant(_BYTES, np.asarray(values).tolist())


def _look_up(b: Builder, table: Bytes, index: Value, bits: Sequence[Value]) -> Value:
    """Emit 64 bytes of a table; ``bits`` are those of the indices above the eighth one."""
    if len(table) == 2 * _LANES:
        low, high = _constant(table[:_LANES]), _constant(table[_LANES:])
        return emit.call(b, "llvm.x86.avx512.vpermi2var.qi.512", _BYTES, [low, index, high])
    middle = len(table) // 2
    low, high = (_look_up(b, part, index, bits[:-1]) for part in (table[:middle], table[middle:]))
    bit = bits[-1] if bits else b.icmp_signed("<", index, constant(_BYTES, 0))
    return b.select(bit, high, low)
