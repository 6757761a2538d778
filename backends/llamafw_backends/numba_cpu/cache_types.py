"""The types in which keys and values are cached: how they are rounded, stored and read.

A block of 16 keys is a tile of their type (see `tiles`), with a position in each lane. The values of a position are
stored as a row of a file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from llvmlite import ir

from llamafw import SettingsError
from llamafw_backends.numba_cpu import cache_rounding, emit
from llamafw_backends.numba_cpu.emit import BYTES, F32, FLOATS, I32, INTS, Builder, Value, address, constant
from llamafw_backends.numba_cpu.formats import FORMATS
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler, jit
from llamafw_backends.numba_cpu.simd import call_address
from llamafw_backends.numba_cpu.tiles import COLUMNS, Format, QuantFormat


@dataclass(frozen=True, slots=True)
class CacheType:
    """A type of keys or values.

    Attributes
    ----------
    name : str
        Its name in settings.
    columns : int
        How many numbers are rounded at once; the size of a head must be a multiple of it.
    round : callable
        Rounds so many float32, at one address, to blocks in the file's layout, at another one. Compiled by Numba.
    load : callable
        ``load(builder, row, i)`` emits loading the numbers 16·i … 16·i + 15 of a row in the file's layout, as float32.
    """

    name: str
    columns: int
    round: Callable[[int, int], None]
    load: Callable[[Builder, Value, int], Value]

    @property
    def format(self) -> Format:
        """How keys are stored."""
        return FORMATS[self.name.upper()]

    @property
    def is_quantised(self) -> bool:
        """Whether numbers share a scale."""
        return isinstance(self.format, QuantFormat)

    def row_bytes(self, n: int) -> int:
        """Return the size of ``n`` numbers in the file's layout."""
        return n // self.format.block_size * self.format.block_bytes

    def check_size(self, size: int, flag: str) -> None:
        """Raise SettingsError if heads of a size cannot be stored; ``flag`` has set the type."""
        if size % self.columns:
            raise SettingsError(
                f"{flag} {self.name} stores blocks of {self.columns} numbers, but this model has heads of {size}; use "
                "f16, bf16 or f32"
            )

    def fields(self, compiler: KernelCompiler, size: int) -> dict[str, int]:
        """Return the fields of a ROUNDING record for rows or keys of ``size`` numbers."""
        tile = self.format
        return {
            "round": compiler(f"round to {self.name}", 2, self.round, has_result=False).address,
            "pack": compiler(tile.kernel_name("pack"), 4, tile.pack, has_result=False).address,
            "columns": self.columns,
            "bytes": self.row_bytes(self.columns),
            "n_blocks": self.columns // tile.block_size,
            "block_bytes": tile.block_bytes,
            "word_bytes": tile.word_bytes,
            "scale_bytes": tile.scale_bytes,
            "scales": size // tile.columns * tile.word_bytes,
        }


_call_round, _call_pack = call_address(2), call_address(4)


@jit
def store_key(r: Any, x: int, size: int, block: int, lane: int, scratch: int) -> None:
    """Round a key and write it into a lane of a block of keys.

    Parameters
    ----------
    r : record
        Has the fields of ROUNDING.
    x, size : int
        Address of the key, float32, and its length.
    block, lane : int
        Address of the block, and the key's lane.
    scratch : int
        Address of 64 bytes that may be overwritten.
    """
    words, scales = block, block + r.scales
    for i in range(0, size, r.columns):
        _call_round(r.round, x + 4 * i, scratch)
        for j in range(r.n_blocks):
            _call_pack(r.pack, scratch + j * r.block_bytes, words, scales, lane)
            words += r.word_bytes
            scales += r.scale_bytes


@jit
def store_value(r: Any, x: int, size: int, row: int) -> None:
    """Round a value and write it into a row; the arguments are those of `store_key`."""
    for i in range(0, size, r.columns):
        _call_round(r.round, x + 4 * i, row)
        row += r.bytes


# --- loading values in kernels --------------------------------------------------------------------------


def _load_floats(b: Builder, row: Value, i: int, *, name: str) -> Value:
    kind = FORMATS[name]
    return kind.load(b, address(b, row, i * emit.LANES * kind.block_bytes // kind.block_size))


def _scalar(b: Builder, where: Value) -> Value:
    """Emit loading a float16 into each lane, as float32."""
    return emit.splat(b, emit.load_half(b, where, F32))


def _load_q8_0(b: Builder, row: Value, i: int) -> Value:
    block = address(b, row, i // 2 * 34)
    numbers = emit.load(b, address(b, block, 2 + i % 2 * emit.LANES), BYTES)
    return b.fmul(_scalar(b, block), emit.to_float(b, b.sext(numbers, INTS)))


def _load_nibbles(
    b: Builder, row: Value, i: int, *, n_bytes: int, offset: int = 0, has_fifth_bit: bool = False
) -> Value:
    """Emit loading numbers of a type with 4 or 5 bits; a minimum follows the scale if ``offset`` is 0."""
    block, half = address(b, row, i // 2 * n_bytes), i % 2
    quants = b.zext(emit.load(b, address(b, block, n_bytes - emit.LANES), BYTES), INTS)
    quants = b.lshr(quants, constant(INTS, 4)) if half else b.and_(quants, constant(INTS, 15))
    if has_fifth_bit:
        bits = emit.load_splat(b, address(b, block, n_bytes - emit.LANES - 4), I32)
        bits = b.lshr(bits, ir.Constant(INTS, [emit.LANES * half + lane for lane in range(emit.LANES)]))
        quants = b.or_(quants, b.shl(b.and_(bits, constant(INTS, 1)), constant(INTS, 4)))
    if offset:
        return b.fmul(_scalar(b, block), emit.to_float(b, b.sub(quants, constant(INTS, offset))))
    return b.fadd(b.fmul(_scalar(b, block), emit.to_float(b, quants)), _scalar(b, address(b, block, 2)))


CACHE_TYPES = {
    one.name: one
    for one in (
        CacheType("f32", 16, cache_rounding.to_f32, partial(_load_floats, name="F32")),
        CacheType("f16", 16, cache_rounding.to_f16, partial(_load_floats, name="F16")),
        CacheType("bf16", 16, cache_rounding.to_bf16, partial(_load_floats, name="BF16")),
        CacheType("q8_0", 32, cache_rounding.to_q8_0, _load_q8_0),
        CacheType("q5_1", 32, cache_rounding.to_q5_1, partial(_load_nibbles, n_bytes=24, has_fifth_bit=True)),
        CacheType("q5_0", 32, cache_rounding.to_q5_0, partial(_load_nibbles, n_bytes=22, offset=16, has_fifth_bit=True)),
        CacheType("q4_1", 32, cache_rounding.to_q4_1, partial(_load_nibbles, n_bytes=20)),
        CacheType("q4_0", 32, cache_rounding.to_q4_0, partial(_load_nibbles, n_bytes=18, offset=8)),
    )
}
