"""The types in which keys and values are cached: how they are rounded, stored and read.

A block of 16 keys is like a tile of their type (see `tiles`), with a position in each lane, but the words of all its
records come before all scales. Values are stored position by position: a row has the blocks of the file without their
scales, which are stored for 16 positions together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from llvmlite import ir

from llamafw_backends.numba_cpu import cache_rounding, emit
from llamafw_backends.numba_cpu.cpu import features
from llamafw_backends.numba_cpu.emit import BYTES, FLOATS, I32, INTS, Builder, Value, address, constant
from llamafw_backends.numba_cpu.formats import FORMATS
from llamafw_backends.numba_cpu.formats.iq4_nl import NUMBERS
from llamafw_backends.numba_cpu.hadamard import rotate
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler, jit
from llamafw_backends.numba_cpu.simd import (
    call_address,
    load,
    load_f32,
    read_u16,
    read_u32,
    store,
    store_f32,
    write_u16,
    write_u32,
)
from llamafw_backends.numba_cpu.tables import look_up_floats
from llamafw_backends.numba_cpu.tiles import Format


@dataclass(frozen=True, slots=True)
class CacheType:
    """A type of keys or values.

    Attributes
    ----------
    name : str
        Its name in settings.
    columns : int
        How many numbers are rounded at once; the size of a head must be a multiple of it.
    n_scales : int
        How many scales these numbers have: 0; 1; or 2, a scale and a minimum. They are float16 at a block's start.
    round : callable
        Rounds ``columns`` float32 at one address to blocks in the file's layout at another one. Compiled by Numba.
    load : callable
        ``load(builder, row, i)`` emits loading the numbers 16·i … 16·i + 15 of a row as float32, without the scale.
    """

    name: str
    columns: int
    n_scales: int
    round: Callable[[int, int], None]
    load: Callable[[Builder, Value, int], Value]

    @property
    def format(self) -> Format:
        """How keys are stored."""
        return FORMATS[self.name.upper()]

    def row_bytes(self, n: int) -> int:
        """Return the size of ``n`` numbers of a position, without their scales."""
        return n // self.columns * (self._unit_bytes - 2 * self.n_scales)

    @property
    def _unit_bytes(self) -> int:
        """The size of what is rounded at once, in the file's layout."""
        return self.columns // self.format.block_size * self.format.block_bytes

    def fields(self, compiler: KernelCompiler, size: int) -> dict[str, int]:
        """Return the fields of a ROUNDING record for rows or keys of ``size`` numbers."""
        tile = self.format
        return {
            "round": compiler(f"round to {self.name}", 2, self.round, has_result=False).address,
            "pack": compiler(tile.kernel_name("pack"), 4, tile.pack, has_result=False).address,
            "is_float32": int(self.name == "f32"),
            "columns": self.columns,
            "n_scales": self.n_scales,
            "row_bytes": self.row_bytes(self.columns),
            "n_blocks": self.columns // tile.block_size,
            "block_bytes": tile.block_bytes,
            "word_bytes": tile.word_bytes,
            "scale_bytes": tile.scale_bytes,
            "scales": size // tile.columns * tile.word_bytes,
        }


_call_round, _call_pack = call_address(2), call_address(4)


@jit
def store_key(r: Any, x: int, size: int, block: int, lane: int, scratch: int) -> None:
    """Round a key, rotated if the type has scales (see `hadamard`), and write it into a lane of a block of keys.

    Parameters
    ----------
    r : record
        Has the fields of ROUNDING.
    x, size : int
        Address of the key, float32, and its length.
    block, lane : int
        Address of the block, and the key's lane.
    scratch : int
        Address of 64 + 4 · size bytes that may be overwritten.
    """
    if r.is_float32 != 0:
        for i in range(size):
            store_f32(load_f32(x + 4 * i), block + 64 * i + 4 * lane)
        return
    if r.n_scales > 0:
        rotate(x, size, scratch + 64)
        x = scratch + 64
    words, scales = block, block + r.scales
    for i in range(0, size, r.columns):
        _call_round(r.round, x + 4 * i, scratch)
        for j in range(r.n_blocks):
            _call_pack(r.pack, scratch + j * r.block_bytes, words, scales, lane)
            words += r.word_bytes
            scales += r.scale_bytes


@jit
def store_value(r: Any, x: int, size: int, row: int, scales: int, lane: int, scratch: int) -> None:
    """Round a value like a key, and write it into a row, and its scales into a lane; see `store_key`.

    ``scales`` is the address of the scales of 16 positions: the scale and the minimum of the first numbers, of the next
    ones …
    """
    if r.is_float32 != 0:
        for i in range(0, 4 * size, 64):
            store(load(x + i), row + i)
        return
    if r.n_scales > 0:
        rotate(x, size, scratch + 64)
        x = scratch + 64
    for i in range(0, size, r.columns):
        _call_round(r.round, x + 4 * i, scratch)
        for j in range(r.n_scales):
            write_u16(read_u16(scratch + 2 * j), scales + 2 * lane)
            scales += 32
        for j in range(0, r.row_bytes, 4):
            write_u32(read_u32(scratch + 2 * r.n_scales + j), row + j)
        row += r.row_bytes


# --- loading values in kernels --------------------------------------------------------------------------


def _load_f32(b: Builder, row: Value, i: int) -> Value:
    return emit.load(b, address(b, row, 4 * emit.LANES * i), FLOATS)


def _load_f16(b: Builder, row: Value, i: int) -> Value:
    return emit.load_half(b, address(b, row, 2 * emit.LANES * i))


def _load_bf16(b: Builder, row: Value, i: int) -> Value:
    return emit.load_bf16(b, address(b, row, 2 * emit.LANES * i))


def _load_q8_0(b: Builder, row: Value, i: int) -> Value:
    return emit.to_float(b, b.sext(emit.load(b, address(b, row, emit.LANES * i), BYTES), INTS))


def _load_nibbles(b: Builder, row: Value, i: int, *, table: Sequence[int]) -> Value:
    """Emit loading numbers of 4 bits, which are indices of a table."""
    quants = b.zext(emit.load(b, address(b, row, i // 2 * emit.LANES), BYTES), INTS)
    if i % 2:
        quants = b.lshr(quants, constant(INTS, 4))
    if "avx512f" in features() or not isinstance(table, range):
        return look_up_floats(b, table, quants)
    return emit.to_float(b, b.add(b.and_(quants, constant(INTS, 15)), constant(INTS, table[0])))


def _load_five_bits(b: Builder, row: Value, i: int, *, offset: int) -> Value:
    """Emit loading numbers of 5 bits, the highest of which are in 4 bytes before the others."""
    block, half = address(b, row, i // 2 * (emit.LANES + 4)), i % 2
    quants = b.zext(emit.load(b, address(b, block, 4), BYTES), INTS)
    quants = b.lshr(quants, constant(INTS, 4)) if half else b.and_(quants, constant(INTS, 15))
    bits = emit.load_splat(b, block, I32)
    bits = b.lshr(bits, ir.Constant(INTS, [emit.LANES * half + lane for lane in range(emit.LANES)]))
    quants = b.or_(quants, b.shl(b.and_(bits, constant(INTS, 1)), constant(INTS, 4)))
    return emit.to_float(b, b.sub(quants, constant(INTS, offset)) if offset else quants)


_FROM_0, _FROM_8 = range(16), range(-8, 8)
CACHE_TYPES = {
    one.name: one
    for one in (
        CacheType("f32", 16, 0, cache_rounding.to_f32, _load_f32),
        CacheType("f16", 16, 0, cache_rounding.to_f16, _load_f16),
        CacheType("bf16", 16, 0, cache_rounding.to_bf16, _load_bf16),
        CacheType("q8_0", 32, 1, cache_rounding.to_q8_0, _load_q8_0),
        CacheType("q5_1", 32, 2, cache_rounding.to_q5_1, partial(_load_five_bits, offset=0)),
        CacheType("q5_0", 32, 1, cache_rounding.to_q5_0, partial(_load_five_bits, offset=16)),
        CacheType("q4_1", 32, 2, cache_rounding.to_q4_1, partial(_load_nibbles, table=_FROM_0)),
        CacheType("q4_0", 32, 1, cache_rounding.to_q4_0, partial(_load_nibbles, table=_FROM_8)),
        CacheType("iq4_nl", 32, 1, cache_rounding.to_iq4_nl, partial(_load_nibbles, table=NUMBERS)),
    )
}
