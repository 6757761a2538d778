"""Q4_K: blocks of 256 weights d·s·q − dmin·m, with s and m for each 32 columns.

In the file: float16 d, float16 dmin; 12 bytes with 6 bits for each s and m; 128 bytes of q. Each 32 bytes of q have the
columns of one group of 32 in low nibbles, and of the next group in high nibbles.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.emit import Value
from llamafw_backends.numba_cpu.formats.bits import CRUMBS, NIBBLES, copy_halves, nibbles, pack_nibbles
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.simd import load_f16, read_u8, read_u32, store_f32, write_u8
from llamafw_backends.numba_cpu.tiles import QuantFormat, Record


@jit
def scales_of(packed: int) -> tuple[int, int]:
    """Return s of all groups, a byte each: of the groups 0 to 3, and of the groups 4 to 7."""
    first, third = read_u32(packed), read_u32(packed + 8)
    return first & 0x3F3F3F3F, (third & NIBBLES) | ((first >> 6 & CRUMBS) << 4)


@jit
def minima_of(packed: int) -> tuple[int, int]:
    """Return m of all groups, as `scales_of` does."""
    second, third = read_u32(packed + 4), read_u32(packed + 8)
    return second & 0x3F3F3F3F, (third >> 4 & NIBBLES) | ((second >> 6 & CRUMBS) << 4)


@jit
def group_byte(first: int, second: int, i: int) -> int:
    """Return the byte of the group ``i``."""
    return (first | second << 32) >> (8 * i) & 255


@jit
def pack_scales(source: int, scales: int, lane: int) -> None:
    """Copy the scales of a block of Q4_K or Q5_K: bytes s and m for each 32 columns, d, dmin."""
    s, m = scales_of(source + 4), minima_of(source + 4)
    for i in range(8):
        write_u8(group_byte(s[0], s[1], i), scales + 32 * i + lane)
        write_u8(group_byte(m[0], m[1], i), scales + 32 * i + 16 + lane)
    copy_halves(source, 2, scales + 256, lane)


class Q4_K(QuantFormat):
    """4 words of nibbles; scales: bytes s and m for each 32 columns, d, dmin."""

    name, block_size, block_bytes = "Q4_K", 256, 144
    word_bytes, scale_bytes, bound = 256, 320, 15

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for record in range(8):
            q = source + 16 + record // 2 * 32
            pack_nibbles(q, q + 16, record % 2 * 4, words + 256 * record, lane)
        pack_scales(source, scales, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d, dmin = load_f16(source), load_f16(source + 2)
        s, m = scales_of(source + 4), minima_of(source + 4)
        for i in range(256):
            scale = d * np.float32(group_byte(s[0], s[1], i // 32))
            minimum = dmin * np.float32(group_byte(m[0], m[1], i // 32))
            q = read_u8(source + 16 + i // 64 * 32 + i % 32) >> (i // 32 % 2 * 4) & 15
            store_f32(scale * np.float32(q) - minimum, out + 4 * i)

    def bytes(self, record: Record) -> list[Value]:
        return nibbles(record)

    def scale(self, record: Record) -> list[Value]:
        return [record.times(record.half(256), record.byte(0, 32))]

    def minimum(self, record: Record) -> list[Value]:
        return [record.times(record.b.fneg(record.half(288)), record.byte(16, 32))]
