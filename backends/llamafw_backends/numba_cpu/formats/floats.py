"""F32, F16 and BF16: weights that are multiplied with float32 activations; BF16 also with bfloat16 ones.

A tile has 16 rows of column 0, then 16 rows of column 1 … A tile of `BF16Pairs` has columns 0 and 1 of row 0, of row 1
…, then columns 2 and 3.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.emit import FLOATS, Builder, Value, address
from llamafw_backends.numba_cpu.isa import DotProducts
from llamafw_backends.numba_cpu.simd import (
    load_bf16,
    load_f16,
    load_f32,
    read_u16,
    read_u32,
    store_f32,
    write_u16,
    write_u32,
)
from llamafw_backends.numba_cpu.tiles import BF16_LAYOUT, F32_LAYOUT, FLOAT_COLUMNS, Format, Record


class _FloatFormat(Format):
    block_size = columns = FLOAT_COLUMNS
    layout = F32_LAYOUT

    @staticmethod
    @abstractmethod
    def load(b: Builder, where: Value) -> Value:
        """Emit loading 16 weights as float32."""

    def multiply(
        self, records: Sequence[Record], dots: DotProducts, tokens: Sequence[Value], sums: Sequence[Sequence[Value]]
    ) -> list[list[Value]]:
        """Emit Σ w·x, one column after the other."""
        b, results = records[0].b, [list(totals) for totals in sums]
        for column in range(self.columns):
            place = column * self.word_bytes // self.columns
            weights = [self.load(b, address(b, record.words, place)) for record in records]
            for i, token in enumerate(tokens):
                x = records[0].activation(token, column)
                for tile, weight in enumerate(weights):
                    results[tile][i] = emit.fma(b, weight, x, results[tile][i])
        return results


class F32Format(_FloatFormat):
    """float32."""

    name, block_bytes, word_bytes = "F32", 16, 256

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for i in range(4):
            store_f32(load_f32(source + 4 * i), words + 64 * i + 4 * lane)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        for i in range(4):
            store_f32(load_f32(source + 4 * i), out + 4 * i)

    @staticmethod
    def load(b: Builder, where: Value) -> Value:
        return emit.load(b, where, FLOATS)


class _ShortFormat(_FloatFormat):
    """Floats of 16 bits."""

    block_bytes, word_bytes = 8, 128

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for i in range(4):
            write_u16(read_u16(source + 2 * i), words + 32 * i + 2 * lane)


class F16Format(_ShortFormat):
    """float16."""

    name = "F16"
    load = staticmethod(emit.load_half)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        for i in range(4):
            store_f32(load_f16(source + 2 * i), out + 4 * i)


class BF16Format(_ShortFormat):
    """bfloat16."""

    name = "BF16"
    load = staticmethod(emit.load_bf16)

    @staticmethod
    def unpack(source: int, out: int) -> None:
        for i in range(4):
            store_f32(load_bf16(source + 2 * i), out + 4 * i)


class BF16Pairs(BF16Format):
    """bfloat16, multiplied with activations that are rounded to bfloat16; ``--numba-activations int8`` chooses it."""

    layout = BF16_LAYOUT

    @property
    def key(self) -> str:
        return f"{self.name} pairs"

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        for pair in range(2):
            write_u32(read_u32(source + 4 * pair), words + 64 * pair + 4 * lane)

    def multiply(
        self, records: Sequence[Record], dots: DotProducts, tokens: Sequence[Value], sums: Sequence[Sequence[Value]]
    ) -> list[list[Value]]:
        """Emit Σ w·x, one pair of columns after the other."""
        b, results = records[0].b, [list(totals) for totals in sums]
        for pair in range(self.columns // 2):
            weights = [record.word(pair) for record in records]
            for i, token in enumerate(tokens):
                x = records[0].activation_pair(token, pair)
                for tile, weight in enumerate(weights):
                    results[tile][i] = dots.multiply_pairs(b, results[tile][i], weight, x)
        return results
