"""Emit look-ups in tables of 16 numbers."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.cpu import features
from llamafw_backends.numba_cpu.emit import F32, FLOATS, I32, INTS, LANES, Builder, Value, constant

_HALF = ir.VectorType(F32, 8)


def look_up_floats(b: Builder, table: Sequence[float], indices: Value) -> Value:
    """Emit the numbers of a table at 16 indices.

    Parameters
    ----------
    b : Builder
        Receives the code.
    table : sequence of float
        16 numbers; the results are float32.
    indices : Value
        16 int32. Only their lowest 4 bits count.
    """
    if "avx512f" in features():
        return emit.call(b, "llvm.x86.avx512.permvar.sf.512", FLOATS, [ir.Constant(FLOATS, list(table)), indices])
    if "avx2" in features():
        return emit.join(b, *(_look_up_half(b, table, emit.take(b, indices, list(range(h, h + 8)))) for h in (0, 8)))
    return _select(b, table, indices)


def _look_up_half(b: Builder, table: Sequence[float], indices: Value) -> Value:
    """Emit a look-up of 8 indices: in both halves of the table, of which bit 3 of an index chooses one."""
    low, high = (
        emit.call(b, "llvm.x86.avx2.permps", _HALF, [ir.Constant(_HALF, list(table[h : h + 8])), indices])
        for h in (0, 8)
    )
    in_high = b.icmp_signed("<", b.shl(indices, constant(indices.type, 28)), constant(indices.type, 0))
    return b.select(in_high, high, low)


def _select(b: Builder, table: Sequence[float], indices: Value) -> Value:
    """Emit a look-up for any processor: each bit of an index chooses between halves of what is left of the table."""
    found = [constant(FLOATS, number) for number in table]
    for bit in range(LANES.bit_length() - 1):
        is_set = b.icmp_signed("!=", b.and_(indices, constant(INTS, 1 << bit)), constant(INTS, 0))
        found = [b.select(is_set, odd, even) for even, odd in zip(found[::2], found[1::2], strict=True)]
    return found[0]


def splat_int(b: Builder, number: Value) -> Value:
    """Emit 16 int32 that are all the lowest bits of an int64."""
    return emit.splat(b, b.trunc(number, I32))
