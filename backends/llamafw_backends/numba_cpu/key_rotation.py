"""Rotate cached keys when their positions change: read a block of keys as float32, rotate some of them, round them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.cache_types import CACHE_TYPES, CacheType, store_key
from llamafw_backends.numba_cpu.emit import I64, INTS, Builder, Value, address, constant
from llamafw_backends.numba_cpu.hadamard import rotate as transform
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler
from llamafw_backends.numba_cpu.kernel_records import I, accessor, address_of, named, new_records, rounding_at
from llamafw_backends.numba_cpu.simd import load_f32, load_i64, specialised, store_f32
from llamafw_backends.numba_cpu.tiles import COLUMNS, QuantFormat, Record

_PAIR = np.dtype([*named(I, "first second"), ("cos", np.float32), ("sin", np.float32)])
_ROTATION = np.dtype(
    [
        ("rounding", I),  # ROUNDING
        *named(I, "keys block_bytes"),  # blocks of 16 keys
        *named(I, "begin end"),  # positions
        *named(I, "pairs n_pairs pair_step"),  # _PAIR; how far those of the next position are
        *named(I, "block key scratch"),  # buffers: (size, 16) and (size,) float32; see `store_key`
    ]
)
"""The arguments of the kernel that rotates keys."""
_rotation_at, _PAIR_BYTES = accessor(_ROTATION), _PAIR.itemsize


@dataclass(frozen=True, slots=True)
class KeyRotation:
    """How the numbers of a key are rotated by its position."""

    frequencies: npt.NDArray[np.float64]  # (n_pairs,) radians per position
    first: slice  # the first numbers of the pairs
    second: slice

    def pairs(self, moves: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.void]:
        """Return the pairs of keys of ``size`` numbers, with the angles of rotations back.

        Parameters
        ----------
        moves : (n,) int64
            By how many positions.
        size : int
            Size of a key.

        Returns
        -------
        (n, n_pairs) records
            The pairs.
        """
        pairs, numbers = new_records(_PAIR, len(moves) * len(self.frequencies)), np.arange(size)
        pairs = pairs.reshape(len(moves), -1)
        pairs["first"], pairs["second"] = numbers[self.first], numbers[self.second]
        angles = moves[:, None] * self.frequencies
        pairs["cos"], pairs["sin"] = np.cos(angles), np.sin(angles)
        return pairs


def emit_floats(b: Builder, values: list[Value], size: int, kind: str) -> None:
    """Emit writing a block of 16 keys as (size, 16) float32."""
    block, out = values
    tile = CACHE_TYPES[kind].format
    words_end = address(b, block, size // tile.columns * tile.word_bytes)

    def write_record(i: Value, _: list[Value]) -> list[Value]:
        words = b.add(block, b.mul(i, constant(I64, tile.word_bytes)))
        to = b.add(out, b.mul(i, constant(I64, 64 * tile.columns)))
        if not isinstance(tile, QuantFormat):
            for column in range(tile.columns):
                at = address(b, words, column * tile.word_bytes // tile.columns)
                emit.store(b, CACHE_TYPES[kind].load(b, at, 0), address(b, to, 64 * column))
            return []

        record = Record(b, words, b.add(words_end, b.mul(i, constant(I64, tile.scale_bytes))), constant(I64, 0))
        scale, minima = tile.scale(record)[0], tile.minimum(record)
        for column in range(COLUMNS):
            byte = b.lshr(tile.bytes(record)[column // 4], constant(INTS, 8 * (column % 4)))
            number = b.sub(b.and_(byte, constant(INTS, 255)), constant(INTS, tile.offset))
            product = record.times(scale, number)
            result = b.fadd(product, minima[0]) if minima else product
            emit.store(b, result, address(b, to, 64 * column))
        return []

    emit.loop(b, constant(I64, size // tile.columns), [], write_record)


write_floats = specialised("floats of keys", 2, 2, emit_floats)


def build(compiler: KernelCompiler, kind: CacheType, size: int) -> Callable[[int], int]:
    """Compile the kernel ``rotate(record)`` for keys of ``size`` numbers."""
    kernel = compiler(f"rotate {kind.name} keys of {size}", 1, _rotate(size, kind.name))
    rotate: Callable[[int], int] = kernel.ctypes
    return rotate


def _rotate(size: int, kind: str) -> Callable[[int], int]:
    is_transformed = CACHE_TYPES[kind].n_scales > 0

    def rotate(record: int) -> int:
        r = _rotation_at(record)
        for number in range(r.begin // 16, (r.end + 15) // 16):
            block, first = r.keys + number * r.block_bytes, 16 * number
            write_floats(size, kind, (block, r.block))
            for lane in range(max(r.begin - first, 0), min(r.end - first, 16)):
                for i in range(size):
                    store_f32(load_f32(r.block + 64 * i + 4 * lane), r.key + 4 * i)
                if is_transformed:
                    transform(r.key, size, r.key)
                pairs = r.pairs + (first + lane - r.begin) * r.pair_step
                for i in range(r.n_pairs):
                    pair = pairs + i * _PAIR_BYTES
                    a, b = r.key + 4 * load_i64(pair), r.key + 4 * load_i64(pair + 8)
                    cos, sin, x, y = load_f32(pair + 16), load_f32(pair + 20), load_f32(a), load_f32(b)
                    store_f32(x * cos + y * sin, a)
                    store_f32(y * cos - x * sin, b)
                store_key(rounding_at(r.rounding), r.key, size, block, lane, r.scratch)
        return 0

    return rotate


class KeyRotator:
    """Rotates keys of one cache."""

    def __init__(self, compiler: KernelCompiler, kind: CacheType, size: int, rounding: int) -> None:
        self._kernel, self._size = build(compiler, kind, size), size
        self._buffers = np.zeros(18 * size + 16, np.float32)
        self._record, block = new_records(_ROTATION), int(self._buffers.ctypes.data)
        fields = {
            "rounding": rounding,
            "block_bytes": kind.format.tile_bytes(size),
            "block": block,
            "key": block + 64 * size,
            "scratch": block + 68 * size,
        }
        for name, value in fields.items():
            self._record[name] = value

    def rotate(self, keys: Sequence[int], begin: int, end: int, pairs: npt.NDArray[np.void]) -> None:
        """Rotate the keys of positions ``begin`` … ``end - 1``.

        Parameters
        ----------
        keys : sequence of int
            The addresses that block 0 of each head would have in the run of these positions; see `runs`.
        begin, end : int
            The first position, and the last one + 1.
        pairs : (n, n_pairs) records
            The result of `KeyRotation.pairs`: n is 1, or there are those of each position.
        """
        n, n_pairs = pairs.shape
        step = pairs.strides[0] if n > 1 else 0
        fields = {"begin": begin, "end": end, "pairs": address_of(pairs), "n_pairs": n_pairs, "pair_step": step}
        for name, value in fields.items():
            self._record[name] = value
        for head in keys:
            self._record["keys"] = head
            self._kernel(address_of(self._record))
