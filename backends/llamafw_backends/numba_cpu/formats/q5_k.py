"""Q5_K: blocks of 256 weights d·s·q − dmin·m, with s and m for each 32 columns.

In the file: float16 d, float16 dmin; 12 bytes with s and m, as in Q4_K; 32 bytes whose bit i is the highest bit of q of
the group i of 32 columns; 128 bytes with the other bits, as in Q4_K.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.emit import Value
from llamafw_backends.numba_cpu.formats.bits import combine, nibbles, pack_bits, pack_nibbles, spread
from llamafw_backends.numba_cpu.formats.q4_k import Q4_K, group_byte, minima_of, pack_scales, scales_of
from llamafw_backends.numba_cpu.simd import load_f16, read_u8, store_f32
from llamafw_backends.numba_cpu.tiles import Record


class Q5_K(Q4_K):
    """4 words of nibbles, 1 word of the highest bits; scales: bytes s and m for each 32 columns, d, dmin."""

    name, block_size, block_bytes = "Q5_K", 256, 176
    word_bytes, scale_bytes, bound = 320, 320, 31

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for record in range(8):
            q = source + 48 + record // 2 * 32
            pack_nibbles(q, q + 16, record % 2 * 4, words + 320 * record, lane)
            pack_bits(source + 16, record, words + 320 * record + 256, lane)
        pack_scales(source, scales, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        d, dmin = load_f16(source), load_f16(source + 2)
        s, m = scales_of(source + 4), minima_of(source + 4)
        for i in range(256):
            scale = d * np.float32(group_byte(s[0], s[1], i // 32))
            minimum = dmin * np.float32(group_byte(m[0], m[1], i // 32))
            q = read_u8(source + 48 + i // 64 * 32 + i % 32) >> (i // 32 % 2 * 4) & 15
            q |= (read_u8(source + 16 + i % 32) >> (i // 32) & 1) << 4
            store_f32(scale * np.float32(q) - minimum, out + 4 * i)

    def bytes(self, record: Record) -> list[Value]:
        return combine(record, nibbles(record), spread(record, 4, 1, 4))
