"""Describe the formats of weights in memory, and emit the multiplication of a block of each.

Weights are stored in tiles of 16 rows: a vector holds one number of each row. A tile is a sequence of blocks, each with
`TileFormat.columns` columns. All tiles of a matrix have the same number of blocks, ``n_blocks``. Quantised formats have
ggml's blocks (32 columns) with the rows interleaved; see `packing`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.emit import F32, FLOATS, I32, I64, INTS, Builder, Value, address, constant
from llamafw_backends.numba_cpu.isa import NEG_8_SUM_OFFSET, RECORD_BYTES, SCALE_OFFSET, SUM_OFFSET, DotProducts

ROWS = 16  # per tile
FLOAT_COLUMNS = 4  # per block of floats
Q8_LAYOUT, F32_LAYOUT = 1, 2  # layouts of activations, as bits: records of bytes (see `isa`), float32


class TileFormat(ABC):
    """A format of weights.

    It holds the weights of a ggml type exactly.
    """

    name: str  # the ggml type
    columns: int  # per block
    layout: int  # of the activations
    block_bytes: int  # of a tile's block, without scales that are stored after the blocks
    scale_bytes = 0  # of a block's scales, if they are stored after all blocks of the tile
    # A block of the file becomes a block of the tile: each 4-byte word of 16 rows, then each 2-byte half of 16 rows.
    source_bytes: int  # of a block in the file (ggml-common.h)
    words_at = 0  # offset of the words in the file's block
    n_words = n_halves = 0  # per block of one row
    bias = 0  # bits that are flipped in each word

    def tile_bytes(self, n_blocks: int) -> int:
        """Return the size of a tile, a multiple of a cache line."""
        return -(-n_blocks * (self.block_bytes + self.scale_bytes) // 64) * 64

    def halves_at(self, n_blocks: int) -> tuple[int, int]:
        """Return the offset of a tile's halves and their distance from block to block, in bytes."""
        if self.scale_bytes:
            return n_blocks * self.block_bytes, self.scale_bytes
        return 64 * self.n_words, self.block_bytes

    @property
    def record_bytes(self) -> int:
        """Size of one token's activations for one block."""
        return RECORD_BYTES if self.layout == Q8_LAYOUT else 4 * self.columns

    def dots(self, b: Builder, isa: DotProducts, p: Value, tokens: Sequence[Value]) -> list[Value]:
        """Emit the dot products of the block at ``p``; an empty list for formats of floats."""
        return []

    @abstractmethod
    def block(
        self,
        b: Builder,
        isa: DotProducts,
        tile: Value,
        n_blocks: Value,
        i: Value,
        tokens: Sequence[Value],
        sums: list[Value],
    ) -> list[Value]:
        """Emit block ``i`` of a tile times the activations of ``tokens``, added to ``sums``.

        Sums are 16 float32 lanes per token.
        """


def element_address(b: Builder, base: Value, i: Value, size: int) -> Value:
    """Emit the address of element ``i`` of ``size`` bytes."""
    return b.add(base, b.mul(i, constant(I64, size)))


class Q4_1(TileFormat):
    """w = d·q + m.

    A block: 4 words of nibbles, 16 float16 d, 16 float16 m.
    """

    name, columns, layout, block_bytes = "Q4_1", 32, Q8_LAYOUT, 320
    source_bytes, words_at, n_words, n_halves = 20, 4, 4, 2

    def dots(self, b: Builder, isa: DotProducts, p: Value, tokens: Sequence[Value]) -> list[Value]:
        """Emit Σ q·x."""
        return isa.dot_u4(b, lambda g: emit.load(b, address(b, p, 64 * g), INTS), tokens)

    def block(
        self,
        b: Builder,
        isa: DotProducts,
        tile: Value,
        n_blocks: Value,
        i: Value,
        tokens: Sequence[Value],
        sums: list[Value],
    ) -> list[Value]:
        """Emit Σ w·x = d·scale·Σ q·x + m·scale·Σ x."""
        p = element_address(b, tile, i, self.block_bytes)
        dots = self.dots(b, isa, p, tokens)
        d, m = emit.load_half(b, address(b, p, 256)), emit.load_half(b, address(b, p, 288))
        new = []
        for dot, token, total in zip(dots, tokens, sums, strict=True):
            scale = emit.load_splat(b, address(b, token, SCALE_OFFSET), F32)
            total = emit.fma(b, emit.to_float(b, dot), b.fmul(d, scale), total)
            new.append(emit.fma(b, m, emit.load_splat(b, address(b, token, SUM_OFFSET), F32), total))
        return new


class _Symmetric(TileFormat):
    """w = d·(q − offset).

    The float16 d of all blocks are stored after the tile's words, which keeps both aligned.
    """

    columns, layout, scale_bytes = 32, Q8_LAYOUT, 32
    words_at, n_halves = 2, 1

    def block(
        self,
        b: Builder,
        isa: DotProducts,
        tile: Value,
        n_blocks: Value,
        i: Value,
        tokens: Sequence[Value],
        sums: list[Value],
    ) -> list[Value]:
        """Emit Σ w·x = d·scale·Σ (q − offset)·x."""
        dots = self.dots(b, isa, element_address(b, tile, i, self.block_bytes), tokens)
        d = emit.load_half(
            b, element_address(b, element_address(b, tile, n_blocks, self.block_bytes), i, self.scale_bytes)
        )
        return [
            emit.fma(
                b, emit.to_float(b, dot), b.fmul(d, emit.load_splat(b, address(b, token, SCALE_OFFSET), F32)), total
            )
            for dot, token, total in zip(dots, tokens, sums, strict=True)
        ]


class Q4_0(_Symmetric):
    """w = d·(q − 8).

    A block: 4 words of nibbles.
    """

    name, block_bytes, source_bytes, n_words = "Q4_0", 256, 18, 4

    def dots(self, b: Builder, isa: DotProducts, p: Value, tokens: Sequence[Value]) -> list[Value]:
        """Emit Σ (q − 8)·x."""
        dots = isa.dot_u4(b, lambda g: emit.load(b, address(b, p, 64 * g), INTS), tokens)
        return [
            b.add(dot, emit.load_splat(b, address(b, token, NEG_8_SUM_OFFSET), I32))
            for dot, token in zip(dots, tokens, strict=True)
        ]


class Q8_0(_Symmetric):
    """w = d·q.

    A block: 8 words of bytes with 128 added to each.
    """

    name, block_bytes, source_bytes, n_words = "Q8_0", 512, 34, 8
    bias = -0x7F7F7F80  # 0x80 in each byte, as an int32

    def dots(self, b: Builder, isa: DotProducts, p: Value, tokens: Sequence[Value]) -> list[Value]:
        """Emit Σ q·x."""
        return isa.dot_s8(b, lambda g: emit.load(b, address(b, p, 64 * g), INTS), tokens)


class _Float(TileFormat):
    """Floats: 16 rows of column 0, then 16 rows of column 1 … Activations are not quantised."""

    columns, layout = FLOAT_COLUMNS, F32_LAYOUT
    load: Callable[[Builder, Value], Value]

    def block(
        self,
        b: Builder,
        isa: DotProducts,
        tile: Value,
        n_blocks: Value,
        i: Value,
        tokens: Sequence[Value],
        sums: list[Value],
    ) -> list[Value]:
        """Emit Σ w·x, one column after the other."""
        p = element_address(b, tile, i, self.block_bytes)
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
