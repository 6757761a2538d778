"""Describe how weights are stored in memory, and emit their multiplication.

Weights are stored in tiles of 16 rows: a vector holds one number of each row. A tile has the blocks of its rows one
after another. A block has records of 32 columns, like activations (see `isa`): first the words of all its records, then
its scales. A word is 16 lanes of 4 bytes, where lane r has 4 adjacent columns of row r.

`QuantFormat` is what a tensor type is for this backend. `formats` has those of ggml; plugins add their own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.emit import BYTES, F32, I32, I64, INTS, Builder, Value, address, constant
from llamafw_backends.numba_cpu.isa import FIRST_SUM_OFFSET, RECORD_BYTES, SCALE_OFFSET, SUM_OFFSET, DotProducts

ROWS = 16  # per tile
COLUMNS = 32  # per record
FLOAT_COLUMNS = 4  # per record of floats
Q8_LAYOUT, F32_LAYOUT = 1, 2  # layouts of activations, as bits: records of bytes (see `isa`), float32
ONE_BYTE = 4  # another bit: records of activations with 8 bits
BF16_LAYOUT = 8  # instead of F32_LAYOUT: the same order of numbers, rounded to bfloat16
FLOAT_BYTES = {F32_LAYOUT: 4, BF16_LAYOUT: 2}  # of an activation


class Format(ABC):
    """How the weights of one tensor type are stored, exactly.

    Attributes
    ----------
    name : str
        The tensor type.
    block_size, block_bytes : int
        Weights and bytes of a block in the file.
    columns : int
        Columns of a record.
    word_bytes : int
        Bytes of a record's words, a multiple of 64.
    scale_bytes : int
        Bytes of a block's scales, a multiple of 16.
    layout : int
        Layout of the activations that it is multiplied with.
    version : str
        A hash of the format's source, if that is not part of this package; `formats.find_format` sets it.
    """

    name: str
    version = ""
    block_size: int
    block_bytes: int
    columns = COLUMNS
    word_bytes: int
    scale_bytes = 0
    layout = Q8_LAYOUT

    @staticmethod
    @abstractmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        """Copy a block of one row into a tile.

        Compiled by Numba.

        Parameters
        ----------
        source : int
            Address of the block in the file's layout.
        words : int
            Address of the block's first word. Those of the next 32 columns are ``word_bytes`` further.
        scales : int
            Address of the block's scales.
        lane : int
            The row's number in the tile.
        """

    @staticmethod
    @abstractmethod
    def unpack(source: int, out: int) -> None:
        """Write the exact weights of a block, ``(block_size,)`` float32.

        Compiled by Numba.

        Parameters
        ----------
        source : int
            Address of the block in the file's layout.
        out : int
            Address of the weights.
        """

    @property
    def key(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}".strip()

    def kernel_name(self, function: str) -> str:
        """Return the name of a kernel of this format."""
        return f"plugin-format {self.key} {function}" if self.version else f"{function} {self.key}"

    @property
    def activation_bytes(self) -> int:
        """Size of one token's activations for one record."""
        return RECORD_BYTES if self.layout == Q8_LAYOUT else FLOAT_BYTES[self.layout] * self.columns

    @property
    def token_bytes(self) -> int:
        """Distance of the activations of adjacent tokens; of floats, 4 columns of each token are together."""
        return RECORD_BYTES if self.layout == Q8_LAYOUT else FLOAT_BYTES[self.layout] * FLOAT_COLUMNS

    @property
    def records_per_block(self) -> int:
        """Number of records that a block of a tile has."""
        return max(1, self.block_size // self.columns)

    @property
    def block_words(self) -> int:
        """Bytes of the words of a block of a tile."""
        return self.records_per_block * self.word_bytes

    def tile_bytes(self, n_columns: int) -> int:
        """Return the size of a tile, a multiple of a cache line."""
        n = n_columns // self.columns * self.word_bytes + n_columns // self.block_size * self.scale_bytes
        return -(-n // 64) * 64

    @abstractmethod
    def multiply(
        self, records: Sequence[Record], dots: DotProducts, tokens: Sequence[Value], sums: Sequence[Sequence[Value]]
    ) -> list[list[Value]]:
        """Emit the same record of several tiles times the activations of ``tokens``, added to ``sums``.

        Parameters
        ----------
        records : sequence of Record
            The weights, a record of each tile.
        dots : DotProducts
            Multiplies bytes, if the activations have the layout Q8_LAYOUT.
        tokens : sequence of Value
            Addresses of the activations of each token. `Record.activation` loads float32.
        sums : sequence of sequence of Value
            What the products are added to: 16 float32 lanes for each tile and token.
        """


@dataclass(frozen=True, slots=True)
class Record:
    """The columns of a tile that are multiplied in one step, 32 in most formats, and the operations to load them.

    Attributes
    ----------
    b : Builder
        Receives the code (llvmlite's IRBuilder).
    words : Value
        Address of the words.
    scales : Value
        Address of the block's scales.
    number : Value
        Number of the record in its block, int64.
    n_tokens : int
        How many tokens it is multiplied with.
    """

    b: Builder
    words: Value
    scales: Value
    number: Value
    n_tokens: int = 1

    def word(self, i: int) -> Value:
        """Emit loading word ``i``: 16 lanes of 4 bytes, as int32."""
        return emit.load(self.b, address(self.b, self.words, 64 * i), INTS)

    def half(self, offset: int, step: int = 0) -> Value:
        """Emit loading 16 float16 at ``offset`` of the scales, and ``step`` bytes further for each record."""
        return emit.load_half(self.b, self.scale_address(offset, step))

    def byte(self, offset: int, step: int = 0, *, signed: bool = False) -> Value:
        """Emit loading 16 bytes of the scales as int32."""
        extend = self.b.sext if signed else self.b.zext
        return extend(emit.load(self.b, self.scale_address(offset, step), BYTES), INTS)

    def activation(self, token: Value, column: int) -> Value:
        """Emit loading the activation of a column in the layout F32_LAYOUT, in each of 16 lanes.

        Activations are in groups of 4 columns; a group has 4 numbers of each token.
        """
        group, i = divmod(column, FLOAT_COLUMNS)
        offset = 4 * (FLOAT_COLUMNS * self.n_tokens * group + i)
        return emit.load_splat(self.b, address(self.b, token, offset), F32)

    def activation_pair(self, token: Value, pair: int) -> Value:
        """Emit loading two adjacent activations of a token, in the layout BF16_LAYOUT, into each of 16 lanes."""
        group, i = divmod(2 * pair, FLOAT_COLUMNS)
        offset = 2 * (FLOAT_COLUMNS * self.n_tokens * group + i)
        return emit.load_splat(self.b, address(self.b, token, offset), I32)

    def scale_address(self, offset: int, step: int = 0) -> Value:
        """Emit the address of a scale: ``offset``, and ``step`` bytes further for each record."""
        where = address(self.b, self.scales, offset)
        return self.b.add(where, self.b.mul(self.number, constant(I64, step))) if step else where

    def times(self, scale: Value, numbers: Value) -> Value:
        """Emit the product of 16 float32 and 16 int32."""
        return self.b.fmul(scale, emit.to_float(self.b, numbers))


class QuantFormat(Format):
    """A tensor type whose weights are ``scale · (byte − offset) + minimum``.

    16 or 32 adjacent columns share a scale, and a minimum if there is one.

    Attributes
    ----------
    bound : int
        Largest byte: at most 127, or 255 if ``offset`` is 128. Products are faster with a smaller one.
    offset : int
        The same for all weights.
    columns_per_scale : int
        16 or 32.
    """

    bound: int
    offset = 0
    columns_per_scale = 32

    @abstractmethod
    def bytes(self, record: Record) -> list[Value]:
        """Emit the 8 words of bytes: 16 lanes of 4 adjacent columns each, from 0 to ``bound``."""

    @abstractmethod
    def scale(self, record: Record) -> list[Value]:
        """Emit 16 float32 scales, one per row; or two times 16, for the first and the last 16 columns."""

    def minimum(self, record: Record) -> list[Value]:
        """Emit the minima in the same way; an empty list if there are none."""
        return []

    def multiply(
        self, records: Sequence[Record], dots: DotProducts, tokens: Sequence[Value], sums: Sequence[Sequence[Value]]
    ) -> list[list[Value]]:
        """Emit Σ w·x, with Σ x from the records of the activations."""
        b, tiles = records[0].b, [self.bytes(record) for record in records]
        n_words = self.columns_per_scale // 4
        products = [
            dots.dot_tiles(b, [words[g : g + n_words] for words in tiles], tokens, g, self.bound, self.offset)
            for g in range(0, COLUMNS // 4, n_words)
        ]
        return [self._add(record, [part[t] for part in products], tokens, sums[t]) for t, record in enumerate(records)]

    def _add(
        self, record: Record, parts: Sequence[Sequence[Value]], tokens: Sequence[Value], sums: Sequence[Value]
    ) -> list[Value]:
        """Emit adding the products of a tile to its sums.

        ``parts`` are Σ (byte − offset)·x of the columns that share a scale.
        """
        b, scales, minima, results = record.b, self.scale(record), self.minimum(record), []
        if len(minima) == 2:
            minima = [minima[1], b.fsub(minima[0], minima[1])]  # m0·s0 + m1·s1 = m1·(s0 + s1) + (m0 − m1)·s0
        for i, (token, total) in enumerate(zip(tokens, sums, strict=True)):
            scale = emit.load_splat(b, address(b, token, SCALE_OFFSET), F32)
            first, *rest = (emit.to_float(b, part[i]) for part in parts)
            if rest:
                product = emit.fma(b, rest[0], scales[1], b.fmul(first, scales[0]))
                result = emit.fma(b, product, scale, total)
            else:
                result = emit.fma(b, first, b.fmul(scales[0], scale), total)
            for minimum, offset in zip(minima, (SUM_OFFSET, FIRST_SUM_OFFSET), strict=False):
                result = emit.fma(b, minimum, emit.load_splat(b, address(b, token, offset), F32), result)
            results.append(result)
        return results

    def start(self, record: Record, dots: DotProducts, tokens: Sequence[Value]) -> None:
        """Emit the first half of a multiplication in two stages; see `isa.Pipeline`."""
        dots.dot(record.b, self.bytes(record), tokens, 0, self.bound, self.offset)


def element_address(b: Builder, base: Value, i: Value, size: int) -> Value:
    """Emit the address of element ``i`` of ``size`` bytes."""
    return b.add(base, b.mul(i, constant(I64, size)))


def record_at(b: Builder, tile_format: Format, tile: Value, i: Value, n_tokens: int = 1) -> Record:
    """Emit the place of record ``i`` of a tile."""
    n, block_words = tile_format.records_per_block, tile_format.block_words
    block, number = b.udiv(i, constant(I64, n)), b.urem(i, constant(I64, n))
    words = element_address(b, tile, block, block_words + tile_format.scale_bytes)
    scales = address(b, words, block_words)
    return Record(b, element_address(b, words, number, tile_format.word_bytes), scales, number, n_tokens)
