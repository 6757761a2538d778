"""How the Numba backend stores and multiplies NF4, and a function that unpacks blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numba as nb
import numpy as np

from llamafw import Bytes, Floats
from llamafw_backends.numba_cpu.kernel_api import (
    F32_LAYOUT,
    FLOATS,
    INTS,
    DotProducts,
    Format,
    Record,
    Value,
    constant,
    copy_halves,
    fma,
    load_f16,
    look_up_floats,
    read_u8,
    store_f32,
    write_u32,
)
from llamafw_nf4 import BLOCK, BYTES, LEVELS, NAME

READONLY = nb.types.Array(nb.uint8, 2, "C", readonly=True)  # blocks may be in a mapped file, which is read-only
COLUMNS_PER_WORD = 8
TABLE = tuple(LEVELS.tolist())  # Numba compiles tuples into the code


class NF4Format(Format):
    """Each 32 columns are 4 words, in which a row has 8 adjacent columns of 4 bits; the scale of a block follows.

    Levels are not multiples of a number, so they are looked up, and multiplied as float32.
    """

    name, block_size, block_bytes = NAME, BLOCK, BYTES
    columns, word_bytes, scale_bytes = 32, 256, 32
    layout = F32_LAYOUT

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for word in range(8):
            bits = 0
            for i in range(8):
                column = 8 * word + i
                bits |= (read_u8(source + 2 + column % 32) >> (column // 32 * 4) & 15) << 4 * i
            write_u32(bits, words + 64 * word + 4 * lane)
        copy_halves(source, 1, scales, lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        scale = load_f16(source)
        for column in range(64):
            level = read_u8(source + 2 + column % 32) >> (column // 32 * 4) & 15
            store_f32(scale * np.float32(TABLE[level]), out + 4 * column)

    def multiply(
        self, records: Sequence[Record], dots: DotProducts, tokens: Sequence[Value], sums: Sequence[Sequence[Value]]
    ) -> list[list[Value]]:
        """Emit the scale times the sum of levels times activations.

        Sums of a record begin at 0, so that records are computed at the same time.
        """
        b = records[0].b
        parts = [[constant(FLOATS, 0.0) for _ in tokens] for _ in records]
        for column in range(self.columns):
            word, i = divmod(column, COLUMNS_PER_WORD)
            levels = [look_up_floats(b, TABLE, b.lshr(record.word(word), constant(INTS, 4 * i))) for record in records]
            for t, token in enumerate(tokens):
                x = records[0].activation(token, column)
                for part, level in zip(parts, levels, strict=True):
                    part[t] = fma(b, level, x, part[t])
        return [
            [fma(b, record.half(0), one, total) for one, total in zip(part, totals, strict=True)]
            for record, part, totals in zip(records, parts, sums, strict=True)
        ]


@nb.njit(nb.void(READONLY, nb.float32[::1], nb.float32[::1], nb.float32[::1]), nogil=True)  # type: ignore[untyped-decorator]  # numba has no types
def unpack(blocks: Bytes, scales: Floats, levels: Floats, weights: Floats) -> None:
    """Write the weights of ``blocks``, (n, 34) uint8, into ``weights``, (64 n,) float32."""
    for i in range(len(blocks)):
        for j in range(32):
            byte = blocks[i, 2 + j]
            weights[64 * i + j] = scales[i] * levels[byte & 15]
            weights[64 * i + 32 + j] = scales[i] * levels[byte >> 4]
