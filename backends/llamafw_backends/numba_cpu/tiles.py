"""Weight formats in memory: tiles of 16 rows, so that a vector holds one number of each of 16 rows.

A tile is a row of blocks of `columns` columns. ``n_blocks`` is the same for all tiles of a matrix.
Quantised formats follow ggml's blocks (32 columns) with the rows interleaved; see `packing`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.emit import F32, FLOATS, I32, I64, INTS, Builder, Value, address, constant
from llamafw_backends.numba_cpu.isa import MINUS_8, RECORD, SCALE, SUM, Dots

ROWS = 16  # of a tile
FLOAT_COLUMNS = 4  # of a block of floats
Q8_LAYOUT, F32_LAYOUT = 1, 2  # how a format wants its activations: records of bytes, or float32


class TileFormat(ABC):
    """One way to keep weights. ``name`` is the ggml type it is an exact copy of."""

    name: str
    columns: int  # of a block
    layout: int  # of the activations
    block_bytes: int  # of a tile's block, scales kept elsewhere not counted
    scale_bytes = 0  # of a block, kept behind all blocks of the tile
    # how a file's block becomes a tile's: 16 rows of each 4-byte word, then 16 rows of each 2-byte half
    source_bytes: int  # of a block in the file (ggml-common.h)
    words_at = n_words = n_halves = 0
    bias = 0  # bits to turn in each word

    def tile_bytes(self, n_blocks: int) -> int:
        """Return the size of a tile; a multiple of a cache line."""
        return -(-n_blocks * (self.block_bytes + self.scale_bytes) // 64) * 64

    def halves_at(self, n_blocks: int) -> tuple[int, int]:
        """Return where a tile's halves begin, and their distance from block to block."""
        if self.scale_bytes:
            return n_blocks * self.block_bytes, self.scale_bytes
        return 64 * self.n_words, self.block_bytes

    @property
    def record_bytes(self) -> int:
        """The activations of one token for one block."""
        return RECORD if self.layout == Q8_LAYOUT else 4 * self.columns

    def dots(self, b: Builder, isa: Dots, p: Value, tokens: Sequence[Value]) -> list[Value]:
        """Emit the dot products of the block at ``p``, if its numbers are multiplied as integers."""
        return []

    @abstractmethod
    def block(
        self,
        b: Builder,
        isa: Dots,
        tile: Value,
        n_blocks: Value,
        i: Value,
        tokens: Sequence[Value],
        sums: list[Value],
    ) -> list[Value]:
        """Emit block ``i`` of a tile times the records of ``tokens``, added to ``sums``: 16 float32 rows per token."""


def at(b: Builder, base: Value, i: Value, size: int) -> Value:
    """Return the address of element ``i`` of ``size`` bytes."""
    return b.add(base, b.mul(i, constant(I64, size)))


class Q4_1(TileFormat):
    """w = d·q + m. A block: 4 words of nibbles, 16 float16 d, 16 float16 m."""

    name, columns, layout, block_bytes = "Q4_1", 32, Q8_LAYOUT, 320
    source_bytes, words_at, n_words, n_halves = 20, 4, 4, 2

    def dots(self, b: Builder, isa: Dots, p: Value, tokens: Sequence[Value]) -> list[Value]:
        """Emit Σ q·x."""
        return isa.dot_u4(b, lambda g: emit.load(b, address(b, p, 64 * g), INTS), tokens)

    def block(
        self,
        b: Builder,
        isa: Dots,
        tile: Value,
        n_blocks: Value,
        i: Value,
        tokens: Sequence[Value],
        sums: list[Value],
    ) -> list[Value]:
        """Emit Σ w·x = d·scale·Σ q·x + m·scale·Σ x."""
        p = at(b, tile, i, self.block_bytes)
        dots = self.dots(b, isa, p, tokens)
        d, m = emit.load_half(b, address(b, p, 256)), emit.load_half(b, address(b, p, 288))
        new = []
        for dot, token, total in zip(dots, tokens, sums, strict=True):
            scale = emit.load_splat(b, address(b, token, SCALE), F32)
            total = emit.fma(b, emit.to_float(b, dot), b.fmul(d, scale), total)
            new.append(emit.fma(b, m, emit.load_splat(b, address(b, token, SUM), F32), total))
        return new


class _Symmetric(TileFormat):
    """w = d·(q − offset). The float16 d of all blocks stand behind the tile's words, to keep both aligned."""

    columns, layout, scale_bytes = 32, Q8_LAYOUT, 32
    words_at, n_halves = 2, 1

    def block(
        self,
        b: Builder,
        isa: Dots,
        tile: Value,
        n_blocks: Value,
        i: Value,
        tokens: Sequence[Value],
        sums: list[Value],
    ) -> list[Value]:
        """Emit Σ w·x = d·scale·Σ (q − offset)·x."""
        dots = self.dots(b, isa, at(b, tile, i, self.block_bytes), tokens)
        d = emit.load_half(b, at(b, at(b, tile, n_blocks, self.block_bytes), i, self.scale_bytes))
        return [
            emit.fma(b, emit.to_float(b, dot), b.fmul(d, emit.load_splat(b, address(b, token, SCALE), F32)), total)
            for dot, token, total in zip(dots, tokens, sums, strict=True)
        ]


class Q4_0(_Symmetric):
    """w = d·(q − 8). A block: 4 words of nibbles."""

    name, block_bytes, source_bytes, n_words = "Q4_0", 256, 18, 4

    def dots(self, b: Builder, isa: Dots, p: Value, tokens: Sequence[Value]) -> list[Value]:
        """Emit Σ (q − 8)·x."""
        dots = isa.dot_u4(b, lambda g: emit.load(b, address(b, p, 64 * g), INTS), tokens)
        return [
            b.add(dot, emit.load_splat(b, address(b, token, MINUS_8), I32))
            for dot, token in zip(dots, tokens, strict=True)
        ]


class Q8_0(_Symmetric):
    """w = d·q. A block: 8 words of bytes, each with 128 added."""

    name, block_bytes, source_bytes, n_words = "Q8_0", 512, 34, 8
    bias = -0x7F7F7F80  # 0x80 in each byte, as an int32

    def dots(self, b: Builder, isa: Dots, p: Value, tokens: Sequence[Value]) -> list[Value]:
        """Emit Σ q·x."""
        return isa.dot_s8(b, lambda g: emit.load(b, address(b, p, 64 * g), INTS), tokens)


class _Float(TileFormat):
    """Floats, column by column: 16 rows of column 0, of column 1 … Activations are not quantised."""

    columns, layout = FLOAT_COLUMNS, F32_LAYOUT
    load: Callable[[Builder, Value], Value]

    def block(
        self,
        b: Builder,
        isa: Dots,
        tile: Value,
        n_blocks: Value,
        i: Value,
        tokens: Sequence[Value],
        sums: list[Value],
    ) -> list[Value]:
        """Emit Σ w·x, one column after the other."""
        p = at(b, tile, i, self.block_bytes)
        for column in range(self.columns):
            weights = type(self).load(b, address(b, p, column * self.block_bytes // self.columns))
            sums = [
                emit.fma(b, weights, emit.load_splat(b, address(b, token, 4 * column), F32), total)
                for token, total in zip(tokens, sums, strict=True)
            ]
        return sums


class F16(_Float):
    """float16."""

    name, block_bytes, source_bytes, n_halves = "F16", 128, 8, 4
    load = staticmethod(emit.load_half)


class BF16(_Float):
    """bfloat16."""

    name, block_bytes, source_bytes, n_halves = "BF16", 128, 8, 4
    load = staticmethod(emit.load_brain)


class F32Tiles(_Float):
    """float32."""

    name, block_bytes, source_bytes, n_words = "F32", 256, 16, 4
    load = staticmethod(lambda b, where: emit.load(b, where, FLOATS))


TILE_FORMATS: dict[str, TileFormat] = {f.name: f for f in (Q4_0(), Q4_1(), Q8_0(), F16(), BF16(), F32Tiles())}
