"""Emit dot products of weights and activations, the only operation that is written for each instruction set.

An instruction set multiplies one block of 32 columns of a 16-row tile with the activations of several tokens. The
result is an exact int32 sum per row and token, so every set gives the same logits.

Weights are read as words: 16 lanes of 4 bytes, where lane r holds 4 adjacent columns of row r. Activations are read as
records, written by `elementwise.quantize`. An activation has 15 bits, in two bytes; 8 bits would change the likeliest
token at one of twenty positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from llvmlite import ir

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.cpu import IS_ARM, IS_X86, features
from llamafw_backends.numba_cpu.emit import I8, I16, I32, INTS, Builder, Value, address, constant

# A record holds 32 activations ≈ scale · x with x = 128 · high + low, |high| ≤ 127, −64 ≤ low < 64.
# Offsets of its fields, in bytes:
HIGH_OFFSET, LOW_OFFSET = 0, 32  # (32,) int8 each
SCALE_OFFSET, SUM_OFFSET, FIRST_SUM_OFFSET = 64, 68, 72  # float32: scale, scale · Σx of all and of the first 16
NEG_SUM_OFFSET, NEG_HALF_SUMS_OFFSET = 76, 80  # int32: −Σx of all; of the first and of the last 16
RECORD_BYTES = 88
HIGH_BITS = 7
MAX_ACTIVATION = 127 << HIGH_BITS  # of |x|
_WORDS = 8  # of a record; half of them have the first or last 16 columns
_PARTS = ((HIGH_OFFSET, 1 << HIGH_BITS), (LOW_OFFSET, 1))  # with their factors


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
    tiles_at_once: dict[int, int]  # for each width, number of tiles multiplied at once; see `matmul`
    last_float_tokens = 0  # of a batch, multiplied with float weights at once, though in several groups; 0: none
    float_sums = 0  # of these tokens and two tiles, which registers have room for
    unpacked_offset = 0  # that unpacked bytes get instead of another one, because it costs nothing; 0: they keep theirs
    unpacked_at_once: tuple[int, int]  # tokens, which divide the largest width, and tiles, if weights are unpacked

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
    unpacked_at_once: tuple[int, int] = 6, 2
    unpacked_offset = 1 << HIGH_BITS  # sums of high parts begin with −Σx
    max_separate = 1  # with more tokens, there are enough sums that do not wait for each other
    max_in_turn = 12  # sums in registers at the same time

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
        in_high, part, sums = offset == 1 << HIGH_BITS, (first, len(tiles[0])), []
        zeros = [constant(INTS, 0)] * len(tiles)
        for token in tokens:
            starts = [_splat_sum(b, token, *part)] * len(tiles) if in_high else zeros  # 128 · (−Σx)
            high = self._dot_each(b, starts, tiles, address(b, token, HIGH_OFFSET + 4 * first))
            totals = [
                add_offset(b, b.shl(one, constant(INTS, HIGH_BITS)), token, 0 if in_high else offset, *part)
                for one in high
            ]
            low = address(b, token, LOW_OFFSET + 4 * first)
            if len(tokens) > self.max_separate:
                totals = self._dot_each(b, totals, tiles, low)
            else:  # the sums of both parts do not wait for each other
                sums_of_low = self._dot_each(b, zeros, tiles, low)
                totals = [b.add(x, y) for x, y in zip(totals, sums_of_low, strict=True)]
            sums.append(totals)
        return [list(dots) for dots in zip(*sums, strict=True)]

    def _dot_in_turn(
        self, b: Builder, tiles: Sequence[Sequence[Value]], tokens: Sequence[Value], first: int, offset: int
    ) -> list[list[Value]]:
        """Emit the dot products of tiles, word by word: those of a word do not wait for each other."""
        in_high, part = offset == 1 << HIGH_BITS, (first, len(tiles[0]))
        totals = [[_splat_sum(b, token, *part) if in_high else constant(INTS, 0)] * len(tiles) for token in tokens]
        for place, bits in ((HIGH_OFFSET, HIGH_BITS), (LOW_OFFSET, 0)):
            for g, words in enumerate(zip(*tiles, strict=True), first):
                for t, token in enumerate(tokens):
                    quants = emit.load_splat(b, address(b, token, place + 4 * g), I32)
                    totals[t] = [self._multiply(b, x, word, quants) for x, word in zip(totals[t], words, strict=True)]
            if bits:
                totals = [[b.shl(x, constant(INTS, bits)) for x in row] for row in totals]
        return [
            [
                add_offset(b, row[i], token, 0 if in_high else offset, *part)
                for row, token in zip(totals, tokens, strict=True)
            ]
            for i in range(len(tiles))
        ]


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
    unpacked_at_once = 3, 1
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
    unpacked_at_once = 4, 1
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


def sums_in_shorts(bound: int) -> int:
    """Return how many products of two adjacent bytes w ≤ ``bound`` and |x| ≤ 127 can be added in 16 bits."""
    return (2**15 - 1) // (2 * bound * 127)


class Avx2(InstructionSet):
    """AVX2: ``vpmaddubsw`` adds two products in 16 bits and saturates, so the factors must be small enough.

    Several sums of two products are added in 16 bits if they fit: all 8 of nibbles, one of bytes up to 127. With larger
    bytes, the unsigned factor is |w − 128| ≤ 128, and the sign of w − 128 is moved to the activation.
    """

    name = "avx2"
    required_features = frozenset({"avx2", "fma"})
    widths = (3, 2, 1)
    tiles_at_once = {3: 1, 2: 1, 1: 1}
    unpacked_at_once = 3, 1
    _words = ir.VectorType(I32, 8)
    _bytes = ir.VectorType(I8, 32)
    _shorts = ir.VectorType(I16, 16)

    def _halves(self, b: Builder, word: Value) -> list[Value]:
        return [emit.take(b, word, list(range(h, h + 8))) for h in (0, 8)]

    def _quants(self, b: Builder, part: Value, group: int) -> Value:
        return b.bitcast(emit.load_splat(b, address(b, part, 4 * group), I32, 8), self._bytes)

    def _pairs(self, b: Builder, unsigned: Value, signed: Value) -> Value:
        return emit.call(b, "llvm.x86.avx2.pmadd.ub.sw", self._shorts, [b.bitcast(unsigned, self._bytes), signed])

    def _widen(self, b: Builder, shorts: Value, factor: int) -> Value:
        return emit.call(b, "llvm.x86.avx2.pmadd.wd", self._words, [shorts, constant(self._shorts, factor)])

    def dot(
        self, b: Builder, words: Sequence[Value], tokens: Sequence[Value], first: int, bound: int, offset: int
    ) -> list[Value]:
        if bound > 127:
            return self._dot_signed(b, words, tokens, first)
        at_once, totals = sums_in_shorts(bound), [[constant(self._words, 0)] * 2 for _ in tokens]
        parts = [(total, token, *part) for total, token in zip(totals, tokens, strict=True) for part in _PARTS]
        for g in range(0, len(words), at_once):
            shorts = [[constant(self._shorts, 0)] * 2 for _ in parts]
            for group in range(g, min(g + at_once, len(words))):
                halves = self._halves(b, words[group])
                for pair, (_, token, part, _) in zip(shorts, parts, strict=True):
                    quants = self._quants(b, address(b, token, part), first + group)
                    pair[:] = [b.add(s, self._pairs(b, half, quants)) for s, half in zip(pair, halves, strict=True)]
            for pair, (total, _, _, factor) in zip(shorts, parts, strict=True):
                total[:] = [b.add(t, self._widen(b, s, factor)) for t, s in zip(total, pair, strict=True)]
        return [
            add_offset(b, emit.join(b, *total), token, offset, first, len(words))
            for total, token in zip(totals, tokens, strict=True)
        ]

    def _dot_signed(self, b: Builder, words: Sequence[Value], tokens: Sequence[Value], first: int) -> list[Value]:
        """Emit Σ (w − 128)·x."""
        sums = [[constant(self._words, 0)] * 2 for _ in tokens]
        for g, word in enumerate(words):
            signed = [
                b.bitcast(b.xor(half, constant(self._words, 0x80808080)), self._bytes) for half in self._halves(b, word)
            ]
            sizes = [emit.call(b, "llvm.abs.v32i8", self._bytes, [half, constant(emit.I1, 0)]) for half in signed]
            for total, token in zip(sums, tokens, strict=True):
                for part, factor in _PARTS:
                    quants = self._quants(b, address(b, token, part), first + g)
                    for h in (0, 1):
                        turned = emit.call(b, "llvm.x86.avx2.psign.b", self._bytes, [quants, signed[h]])
                        total[h] = b.add(total[h], self._widen(b, self._pairs(b, sizes[h], turned), factor))
        return [emit.join(b, *total) for total in sums]


class Plain(InstructionSet):
    """The portable set for any processor, ARM included: 16-bit multiplications, which every vector unit has.

    A word is 32 lanes of 16 bits with two bytes each; even and odd bytes are multiplied separately. As in `Avx2`, sums
    are added in 16 bits if they fit. Bytes above 127 become w − 128, and two products of them fit.
    """

    name = "plain"
    required_features = frozenset[str]()
    widths = (4, 2, 1)
    tiles_at_once = {4: 1, 2: 1, 1: 1}
    unpacked_at_once = 4, 1
    _shorts = ir.VectorType(I16, 32)

    def _split(self, b: Builder, word: Value, *, signed: bool) -> tuple[Value, Value]:
        eight, shorts = constant(self._shorts, 8), b.bitcast(word, self._shorts)
        right = b.ashr if signed else b.lshr
        return right(b.shl(shorts, eight), eight), right(shorts, eight)

    def _products(self, b: Builder, even: Value, odd: Value, part: Value, group: int) -> Value:
        """Emit even · x + odd · x', the products of two adjacent columns each."""
        quants = emit.load_splat(b, address(b, part, 4 * group), I32)
        first, second = self._split(b, quants, signed=True)
        return b.add(b.mul(even, first), b.mul(odd, second))

    def _widen(self, b: Builder, shorts: Value) -> Value:
        pairs, sixteen = b.bitcast(shorts, INTS), constant(INTS, 16)
        return b.add(b.ashr(b.shl(pairs, sixteen), sixteen), b.ashr(pairs, sixteen))

    def dot(
        self, b: Builder, words: Sequence[Value], tokens: Sequence[Value], first: int, bound: int, offset: int
    ) -> list[Value]:
        signed = bound > 127
        if signed:
            words = [b.xor(word, constant(INTS, 0x80808080)) for word in words]
        at_once, totals = sums_in_shorts(min(bound, 127)), [constant(INTS, 0) for _ in tokens for _ in _PARTS]
        parts = [address(b, token, part) for token in tokens for part, _ in _PARTS]
        for g in range(0, len(words), at_once):
            sums = [constant(self._shorts, 0)] * len(parts)
            for group in range(g, min(g + at_once, len(words))):
                even, odd = self._split(b, words[group], signed=signed)
                sums = [
                    b.add(total, self._products(b, even, odd, part, first + group))
                    for total, part in zip(sums, parts, strict=True)
                ]
            totals = [b.add(total, self._widen(b, shorts)) for total, shorts in zip(totals, sums, strict=True)]
        dots = [b.add(b.shl(totals[i], constant(INTS, HIGH_BITS)), totals[i + 1]) for i in range(0, len(totals), 2)]
        return [
            add_offset(b, dot, token, 0 if signed else offset, first, len(words))
            for dot, token in zip(dots, tokens, strict=True)
        ]
