"""Emit dot products of weights and activations, the only operation that is written for each instruction set.

An instruction set multiplies one block of 32 columns of a 16-row tile with the activations of several tokens. The
result is an exact int32 sum per row and token, so every set gives the same logits.

Weights are read as words: 16 lanes of 4 bytes, where lane r holds 4 adjacent columns of row r. Activations are read as
records, written by `elementwise.quantize`. An activation has 15 bits, in two bytes; 8 bits change the likeliest token
at one of twenty positions. Users who choose them (``--numba-activations int8``) get half the multiplications. BF16
weights are then multiplied with pairs of bfloat16. Every set rounds their sums in the same way, except that
``vpdpbf16ps`` has no subnormal numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from llvmlite import ir

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.cpu import IS_ARM, IS_X86, features, has_bf16_products
from llamafw_backends.numba_cpu.emit import I8, I32, INTS, Builder, Value, address, constant

# A record holds 32 activations ≈ scale · x with x = 128 · high + low, |high| ≤ 127, −64 ≤ low < 64; or, if they have
# 8 bits, with x = high.
# Offsets of its fields, in bytes:
HIGH_OFFSET, LOW_OFFSET = 0, 32  # (32,) int8 each
SCALE_OFFSET, SUM_OFFSET, FIRST_SUM_OFFSET = 64, 68, 72  # float32: scale, scale · Σx of all and of the first 16
NEG_SUM_OFFSET, NEG_HALF_SUMS_OFFSET = 76, 80  # int32: −Σx of all; of the first and of the last 16
RECORD_BYTES = 88
HIGH_BITS = 7
MAX_BYTE = 127  # of |high|
MAX_ACTIVATION = MAX_BYTE << HIGH_BITS  # of |x|
_WORDS = 8  # of a record; half of them have the first or last 16 columns
_PARTS = ((HIGH_OFFSET, 1 << HIGH_BITS), (LOW_OFFSET, 1))  # with their factors
_ONE_BYTE = ((HIGH_OFFSET, 1),)  # the same for activations of 8 bits


class DotProducts(ABC):
    """Multiplies a block of weights with the activations of several tokens."""

    @abstractmethod
    def dot(
        self, b: Builder, words: Sequence[Value], tokens: Sequence[Value], first: int, bound: int, offset: int
    ) -> list[Value]:
        """Emit Σ (w − offset)·x for each token, as 16 int32 lanes.

        Parameters
        ----------
        b : Builder
            Receives the code.
        words : sequence of Value
            8 words of unsigned bytes w, or 4 for half of the columns.
        tokens : sequence of Value
            Addresses of records.
        first : int
            The group of 4 columns that the first word belongs to: 0, or 4 for the second half.
        bound : int
            Largest byte: at most 127, or 255 if ``offset`` is 128.
        offset : int
            What is subtracted from each byte.
        """

    def dot_tiles(
        self, b: Builder, tiles: Sequence[Sequence[Value]], tokens: Sequence[Value], first: int, bound: int, offset: int
    ) -> list[list[Value]]:
        """Emit `dot` for the words of several tiles; return the sums of each."""
        return [self.dot(b, words, tokens, first, bound, offset) for words in tiles]

    def multiply_pairs(self, b: Builder, total: Value, weights: Value, pair: Value) -> Value:
        """Emit ``total`` plus two products in each of 16 lanes; see `emit.multiply_pairs`."""
        return emit.multiply_pairs(b, total, weights, pair)


def _splat_sum(b: Builder, token: Value, first: int, n_words: int) -> Value:
    """Emit −Σx of the columns of a token that ``n_words`` words are multiplied with."""
    offset = NEG_SUM_OFFSET if n_words == _WORDS else NEG_HALF_SUMS_OFFSET + first
    return emit.load_splat(b, address(b, token, offset), I32)


def add_offset(b: Builder, dot: Value, token: Value, offset: int, first: int = 0, n_words: int = _WORDS) -> Value:
    """Emit ``dot − offset · Σx`` of a token."""
    if not offset:
        return dot
    total = _splat_sum(b, token, first, n_words)
    if offset & (offset - 1):
        return b.add(dot, b.mul(total, constant(INTS, offset)))
    return b.add(dot, b.shl(total, constant(INTS, offset.bit_length() - 1)))


class Pipeline(ABC):
    """Multiplies in two stages, because results come late: block i + 1 is issued before block i is collected."""

    @abstractmethod
    def issue(self, b: Builder, i: Value) -> DotProducts:
        """Return dot products that start to multiply block ``i``; the sums they return are placeholders."""

    @abstractmethod
    def collect(self, b: Builder, i: Value) -> DotProducts:
        """Return dot products that give the sums of block ``i``."""


class InstructionSet(DotProducts):
    """Multiplies blocks with the instructions of a processor, and says how many tokens and tiles to do at once."""

    name: str
    is_for_x86 = True
    required_features: frozenset[str]  # of the processor, by LLVM's names
    widths: tuple[int, ...]  # possible numbers of tokens multiplied at once, descending; the last is 1
    tiles_at_once: dict[int, int]  # for each width, number of tiles multiplied at once; see `matmul._at_once`
    last_float_tokens = 0  # of a batch, multiplied with float weights at once, though in several groups; 0: none
    float_sums = 0  # of these tokens and two tiles, which registers have room for
    unpacked_offset = 0  # that unpacked bytes get instead of another one, because it costs nothing; 0: they keep theirs
    min_unpacked = 24  # tokens: with fewer, unpacking weights takes longer than it saves
    # of unpacked weights, by the columns that share a scale: tokens, which divide the largest width, and tiles
    unpacked_at_once: Mapping[int, tuple[int, int]]

    def __init__(self, n_bits: int = 15) -> None:
        """Make the instruction set for activations of 15 or 8 bits; the latter has a name of its own."""
        self.n_bits, self._parts = n_bits, _PARTS if n_bits > 8 else _ONE_BYTE
        if n_bits == 8:
            self.name = f"{self.name}-int8"

    def available(self) -> bool:
        """Return whether the processor has this set and the operating system lets this process use it."""
        is_right_machine = IS_X86 if self.is_for_x86 else IS_ARM
        return self.required_features <= features() and (is_right_machine or not self.required_features)

    def begin(self, b: Builder) -> None:
        """Emit code that each thread runs before the first multiplication of a kernel."""

    def end(self, b: Builder) -> None:
        """Emit code that each thread runs after the last multiplication of a kernel."""

    def pipeline(self, b: Builder, n_tokens: int) -> Pipeline | None:
        """Return the pipeline for ``n_tokens`` tokens at once; None if they are multiplied in one stage."""
        return None


class Vnni(InstructionSet):
    """AVX-512 VNNI: ``vpdpbusd`` adds four products of an unsigned and a signed byte in each of 16 lanes."""

    name = "avx512vnni"
    required_features = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512vnni"})
    widths: tuple[int, ...] = (12, 8, 4, 2, 1)
    tiles_at_once = {12: 2, 8: 2, 4: 2, 2: 1, 1: 1}
    last_float_tokens, float_sums = 16, 30
    min_unpacked = 96
    unpacked_at_once: Mapping[int, tuple[int, int]] = {32: (6, 2), 16: (12, 1)}
    unpacked_offset = 1 << HIGH_BITS  # sums of high parts begin with −Σx, and those of bytes with −128 · Σx
    max_separate = 1  # with more tokens, there are enough sums that do not wait for each other
    max_in_turn = 12  # sums in registers at the same time

    def multiply_pairs(self, b: Builder, total: Value, weights: Value, pair: Value) -> Value:
        """Emit ``vpdpbf16ps`` if the processor has AVX-512 BF16.

        It takes and returns zeros instead of subnormal numbers, but otherwise rounds as `emit.multiply_pairs`.
        """
        if not has_bf16_products():
            return super().multiply_pairs(b, total, weights, pair)
        pairs = [b.bitcast(one, emit.BF16S) for one in (weights, pair)]
        return emit.call(b, "llvm.x86.avx512bf16.dpbf16ps.512", emit.FLOATS, [total, *pairs])

    def _multiply(self, b: Builder, total: Value, word: Value, quants: Value) -> Value:
        """Emit ``total`` plus four products of bytes in each lane; all lanes of ``quants`` are alike."""
        return emit.call(b, "llvm.x86.avx512.vpdpbusd.512", INTS, [total, word, quants])

    def _dot_each(
        self, b: Builder, totals: Sequence[Value], tiles: Sequence[Sequence[Value]], part: Value
    ) -> list[Value]:
        totals = list(totals)
        for g, words in enumerate(zip(*tiles, strict=True)):
            quants = emit.load_splat(b, address(b, part, 4 * g), I32)
            totals = [self._multiply(b, total, word, quants) for total, word in zip(totals, words, strict=True)]
        return totals

    def dot(
        self, b: Builder, words: Sequence[Value], tokens: Sequence[Value], first: int, bound: int, offset: int
    ) -> list[Value]:
        return self._dot_together(b, [words], tokens, first, offset)[0]

    def dot_tiles(
        self, b: Builder, tiles: Sequence[Sequence[Value]], tokens: Sequence[Value], first: int, bound: int, offset: int
    ) -> list[list[Value]]:
        """Emit `dot` for the words of several tiles; each load of activations is used for all of them."""
        if len(tokens) == 1:  # there are not enough registers for the words of all tiles
            return super().dot_tiles(b, tiles, tokens, first, bound, offset)
        return self._dot_together(b, tiles, tokens, first, offset)

    def _dot_together(
        self, b: Builder, tiles: Sequence[Sequence[Value]], tokens: Sequence[Value], first: int, offset: int
    ) -> list[list[Value]]:
        if 4 < len(tokens) <= self.max_in_turn // len(tiles):
            return self._dot_in_turn(b, tiles, tokens, first, offset)
        part, zeros, sums = (first, len(tiles[0])), [constant(INTS, 0)] * len(tiles), []
        for token in tokens:
            starts = [self._start(b, token, offset, *part)] * len(tiles)
            totals = self._dot_each(b, starts, tiles, address(b, token, HIGH_OFFSET + 4 * first))
            if len(self._parts) > 1:
                totals = self._move_high(b, totals, token, offset, *part)
                low = address(b, token, LOW_OFFSET + 4 * first)
                if len(tokens) > self.max_separate:
                    totals = self._dot_each(b, totals, tiles, low)
                else:  # the sums of both parts do not wait for each other
                    sums_of_low = self._dot_each(b, zeros, tiles, low)
                    totals = [b.add(x, y) for x, y in zip(totals, sums_of_low, strict=True)]
            sums.append(totals)
        return [list(dots) for dots in zip(*sums, strict=True)]

    def _start(self, b: Builder, token: Value, offset: int, first: int, n_words: int) -> Value:
        """Emit what sums of high parts begin with."""
        if len(self._parts) == 1:
            return add_offset(b, constant(INTS, 0), token, offset, first, n_words)
        is_moved = offset == 1 << HIGH_BITS  # 128 · (−Σx)
        return _splat_sum(b, token, first, n_words) if is_moved else constant(INTS, 0)

    def _move_high(
        self, b: Builder, totals: Sequence[Value], token: Value, offset: int, first: int, n_words: int
    ) -> list[Value]:
        """Emit 128 times the sums of high parts, with the offset."""
        rest = 0 if offset == 1 << HIGH_BITS else offset
        moved = [b.shl(one, constant(INTS, HIGH_BITS)) for one in totals]
        return [add_offset(b, one, token, rest, first, n_words) for one in moved]

    def _dot_in_turn(
        self, b: Builder, tiles: Sequence[Sequence[Value]], tokens: Sequence[Value], first: int, offset: int
    ) -> list[list[Value]]:
        """Emit the dot products of tiles, word by word: those of a word do not wait for each other."""
        part = first, len(tiles[0])
        totals = [[self._start(b, token, offset, *part)] * len(tiles) for token in tokens]
        for i, (place, _) in enumerate(self._parts):
            if i:
                totals = [
                    self._move_high(b, row, token, offset, *part) for row, token in zip(totals, tokens, strict=True)
                ]
            for g, words in enumerate(zip(*tiles, strict=True), first):
                for t, token in enumerate(tokens):
                    quants = emit.load_splat(b, address(b, token, place + 4 * g), I32)
                    totals[t] = [self._multiply(b, x, word, quants) for x, word in zip(totals[t], words, strict=True)]
        return [list(dots) for dots in zip(*totals, strict=True)]


class _Narrow(Vnni):
    """Dot products in registers of ``n_lanes`` lanes, less than 16."""

    n_lanes: int
    max_separate = 4
    max_in_turn = 0

    def _dot_each(
        self, b: Builder, totals: Sequence[Value], tiles: Sequence[Sequence[Value]], part: Value
    ) -> list[Value]:
        n_words, n = len(tiles[0]), self.n_lanes
        quants = [emit.load_splat(b, address(b, part, 4 * g), I32, n) for g in range(n_words)]
        return [self._dot_pieces(b, total, words, quants) for total, words in zip(totals, tiles, strict=True)]

    def _dot_pieces(self, b: Builder, total: Value, words: Sequence[Value], quants: Sequence[Value]) -> Value:
        pieces = []
        for start in range(0, emit.LANES, self.n_lanes):
            lanes = list(range(start, start + self.n_lanes))
            piece = emit.take(b, total, lanes)
            for word, quant in zip(words, quants, strict=True):
                piece = self._multiply(b, piece, emit.take(b, word, lanes), quant)
            pieces.append(piece)
        while len(pieces) > 1:
            pieces = [emit.join(b, *pieces[i : i + 2]) for i in range(0, len(pieces), 2)]
        return pieces[0]


class AvxVnni(_Narrow):
    """AVX-VNNI: ``vpdpbusd`` with registers of half the size, in processors without AVX-512."""

    name = "avxvnni"
    required_features = frozenset({"avx2", "fma", "avxvnni"})
    widths = (3, 2, 1)
    tiles_at_once = {3: 1, 2: 1, 1: 1}
    unpacked_at_once = {32: (3, 1), 16: (3, 1)}
    n_lanes = 8

    def _multiply(self, b: Builder, total: Value, word: Value, quants: Value) -> Value:
        return emit.call(b, "llvm.x86.avx512.vpdpbusd.256", ir.VectorType(I32, 8), [total, word, quants])


class Neon(_Narrow):
    """NEON with dot products (FEAT_DotProd): ``sdot`` adds four products of signed bytes in each of 4 lanes."""

    name = "neon"
    is_for_x86 = False
    required_features = frozenset({"dotprod"})
    widths = (4, 2, 1)
    tiles_at_once = {4: 1, 2: 1, 1: 1}
    unpacked_at_once = {32: (4, 1), 16: (4, 1)}
    n_lanes = 4

    def dot(
        self, b: Builder, words: Sequence[Value], tokens: Sequence[Value], first: int, bound: int, offset: int
    ) -> list[Value]:
        if bound > 127:  # with their highest bit flipped, the bytes are w − 128
            words, offset = [b.xor(word, constant(INTS, 0x80808080)) for word in words], 0
        return super().dot(b, words, tokens, first, bound, offset)

    def dot_tiles(
        self, b: Builder, tiles: Sequence[Sequence[Value]], tokens: Sequence[Value], first: int, bound: int, offset: int
    ) -> list[list[Value]]:
        return [self.dot(b, words, tokens, first, bound, offset) for words in tiles]

    def _multiply(self, b: Builder, total: Value, word: Value, quants: Value) -> Value:
        kind = ir.VectorType(I8, 16)
        values = [total, b.bitcast(word, kind), b.bitcast(quants, kind)]
        return emit.call(b, "llvm.aarch64.neon.sdot.v4i32.v16i8", ir.VectorType(I32, 4), values)
