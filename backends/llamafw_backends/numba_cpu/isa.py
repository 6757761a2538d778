"""Emit dot products of weights and activations, the only operation that is written for each instruction set.

An instruction set multiplies one block of 32 columns of a 16-row tile with the activations of several tokens. The
result is an exact int32 sum per row and token, so every set gives the same logits.

Weights are read as words: 16 lanes of 4 bytes, where lane r holds 4 adjacent columns of row r. Activations are read as
records, written by `elementwise.quantize`. An activation has 15 bits, in two bytes; 8 bits would change the likeliest
token at one of twenty positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from llvmlite import ir

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.cpu import IS_X86, features
from llamafw_backends.numba_cpu.emit import I8, I16, I32, INTS, Builder, Value, address, constant

# A record holds 32 activations ≈ scale · x with x = 128 · high + low, |high| ≤ 127, −64 ≤ low < 64.
# Offsets of its fields, in bytes:
HIGH_OFFSET, LOW_OFFSET = 0, 32  # (32,) int8 each
SCALE_OFFSET, SUM_OFFSET = 64, 68  # float32: scale, scale · Σx
NEG_SUM_OFFSET, NEG_8_SUM_OFFSET = 72, 76  # int32: −Σx, −8 · Σx
RECORD_BYTES = 80
HIGH_BITS = 7
MAX_ACTIVATION = 127 << HIGH_BITS  # of |x|

Words = Callable[[int], Value]  # emits loading the block's word with this number: 16 lanes of 4 bytes


class DotProducts(ABC):
    """Multiplies a block of weights with the activations of several tokens.

    The methods emit code and return one sum per token, as 16 int32 lanes. ``tokens`` are addresses of records.
    """

    @abstractmethod
    def dot_u4(self, b: Builder, words: Words, tokens: Sequence[Value]) -> list[Value]:
        """Emit Σ w·x for 4 words of nibbles: low nibbles are columns 0–15, high nibbles columns 16–31."""

    @abstractmethod
    def dot_s8(self, b: Builder, words: Words, tokens: Sequence[Value]) -> list[Value]:
        """Emit Σ (w − 128)·x for 8 words of unsigned bytes."""


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
    required_features: frozenset[str]  # of the processor, by LLVM's names
    widths: tuple[int, ...]  # possible numbers of tokens multiplied at once, descending; the last is 1
    tiles_at_once: dict[int, int]  # for each width, number of tiles multiplied at once

    def available(self) -> bool:
        """Return whether the processor has this set and the operating system lets this process use it."""
        return self.required_features <= features() and (IS_X86 or not self.required_features)

    def begin(self, b: Builder) -> None:
        """Emit code that each thread runs before the first multiplication of a kernel."""

    def end(self, b: Builder) -> None:
        """Emit code that each thread runs after the last multiplication of a kernel."""

    def pipeline(self, b: Builder, n_tokens: int) -> Pipeline | None:
        """Return the pipeline for ``n_tokens`` tokens at once; None if they are multiplied in one stage."""
        return None


def nibbles(b: Builder, word: Value) -> tuple[Value, Value]:
    """Emit the low and the high nibbles of a word, each as a byte."""
    mask = constant(word.type, 0x0F0F0F0F)
    return b.and_(word, mask), b.and_(b.lshr(word, constant(word.type, 4)), mask)


class Vnni(InstructionSet):
    """AVX-512 VNNI: ``vpdpbusd`` adds four products of an unsigned and a signed byte in each of 16 lanes."""

    name = "avx512vnni"
    required_features = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512vnni"})
    widths: tuple[int, ...] = (12, 8, 4, 2, 1)
    tiles_at_once = {12: 1, 8: 1, 4: 2, 2: 4, 1: 4}

    def _dot(self, b: Builder, total: Value, words: Sequence[Value], part: Value) -> Value:
        for g, word in enumerate(words):
            quants = emit.load_splat(b, address(b, part, 4 * g), I32)
            total = emit.call(b, "llvm.x86.avx512.vpdpbusd.512", INTS, [total, word, quants])
        return total

    def _dot_both_parts(self, b: Builder, start: Value, words: Sequence[Value], token: Value) -> Value:
        """Emit 128 · start + Σ w·x of one token."""
        high = self._dot(b, start, words, address(b, token, HIGH_OFFSET))
        return self._dot(b, b.shl(high, constant(INTS, HIGH_BITS)), words, address(b, token, LOW_OFFSET))

    def dot_u4(self, b: Builder, words: Words, tokens: Sequence[Value]) -> list[Value]:
        pairs = [nibbles(b, words(g)) for g in range(4)]
        unpacked = [low for low, _ in pairs] + [high for _, high in pairs]
        return [self._dot_both_parts(b, constant(INTS, 0), unpacked, token) for token in tokens]

    def dot_s8(self, b: Builder, words: Words, tokens: Sequence[Value]) -> list[Value]:
        loaded = [words(g) for g in range(8)]
        return [
            self._dot_both_parts(b, emit.load_splat(b, address(b, token, NEG_SUM_OFFSET), I32), loaded, token)
            for token in tokens
        ]


class Avx2(InstructionSet):
    """AVX2: ``vpmaddubsw`` adds two products in 16 bits and saturates, so the factors must be small enough.

    Nibbles: 8 words · 2 · 15 · 127 < 2¹⁵, so a whole block can be added in 16 bits. Bytes: the unsigned factor is |w|
    ≤ 128, and the sign of w is moved to the activation; 2 · 128 · 127 < 2¹⁵, so each sum of two is widened to 32 bits.
    """

    name = "avx2"
    required_features = frozenset({"avx2", "fma"})
    widths = (3, 2, 1)
    tiles_at_once = {3: 1, 2: 1, 1: 1}
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

    def dot_u4(self, b: Builder, words: Words, tokens: Sequence[Value]) -> list[Value]:
        parts = [address(b, token, part) for token in tokens for part in (HIGH_OFFSET, LOW_OFFSET)]
        sums = [[constant(self._shorts, 0)] * 2 for _ in parts]
        for g in range(4):
            for group, word in zip((g, g + 4), nibbles(b, words(g)), strict=True):
                halves = self._halves(b, word)
                for total, part in zip(sums, parts, strict=True):
                    quants = self._quants(b, part, group)
                    total[:] = [b.add(s, self._pairs(b, half, quants)) for s, half in zip(total, halves, strict=True)]
        return [
            emit.join(
                b,
                *(
                    b.add(self._widen(b, high, 1 << HIGH_BITS), self._widen(b, low, 1))
                    for high, low in zip(sums[i], sums[i + 1], strict=True)
                ),
            )
            for i in range(0, len(sums), 2)
        ]

    def dot_s8(self, b: Builder, words: Words, tokens: Sequence[Value]) -> list[Value]:
        sums = [[constant(self._words, 0)] * 2 for _ in tokens]
        for g in range(8):
            signed = [
                b.bitcast(b.xor(half, constant(self._words, 0x80808080)), self._bytes)
                for half in self._halves(b, words(g))
            ]
            sizes = [emit.call(b, "llvm.abs.v32i8", self._bytes, [half, constant(emit.I1, 0)]) for half in signed]
            for total, token in zip(sums, tokens, strict=True):
                for part, factor in ((HIGH_OFFSET, 1 << HIGH_BITS), (LOW_OFFSET, 1)):
                    quants = self._quants(b, address(b, token, part), g)
                    for h in (0, 1):
                        turned = emit.call(b, "llvm.x86.avx2.psign.b", self._bytes, [quants, signed[h]])
                        total[h] = b.add(total[h], self._widen(b, self._pairs(b, sizes[h], turned), factor))
        return [emit.join(b, *total) for total in sums]


class Plain(InstructionSet):
    """The portable set for any processor, ARM included: 16-bit multiplications, which every vector unit has.

    A word is 32 lanes of 16 bits with two bytes each; even and odd bytes are multiplied separately. Sums of nibbles fit
    in 16 bits over the whole block (as in `Avx2`), and so do sums of two bytes (2 · 128 · 127 < 2¹⁵).
    """

    name = "plain"
    required_features = frozenset[str]()
    widths = (4, 2, 1)
    tiles_at_once = {4: 1, 2: 1, 1: 1}
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

    def _combine(self, b: Builder, high: Value, low: Value) -> Value:
        return b.add(b.shl(high, constant(INTS, HIGH_BITS)), low)

    def dot_u4(self, b: Builder, words: Words, tokens: Sequence[Value]) -> list[Value]:
        parts = [address(b, token, part) for token in tokens for part in (HIGH_OFFSET, LOW_OFFSET)]
        sums = [constant(self._shorts, 0)] * len(parts)
        for g in range(4):
            for group, word in zip((g, g + 4), nibbles(b, words(g)), strict=True):
                even, odd = self._split(b, word, signed=False)
                sums = [
                    b.add(total, self._products(b, even, odd, part, group))
                    for total, part in zip(sums, parts, strict=True)
                ]
        wide = [self._widen(b, total) for total in sums]
        return [self._combine(b, wide[i], wide[i + 1]) for i in range(0, len(wide), 2)]

    def dot_s8(self, b: Builder, words: Words, tokens: Sequence[Value]) -> list[Value]:
        parts = [address(b, token, part) for token in tokens for part in (HIGH_OFFSET, LOW_OFFSET)]
        sums = [constant(INTS, 0)] * len(parts)
        for g in range(8):
            even, odd = self._split(b, b.xor(words(g), constant(INTS, 0x80808080)), signed=True)
            sums = [
                b.add(total, self._widen(b, self._products(b, even, odd, part, g)))
                for total, part in zip(sums, parts, strict=True)
            ]
        return [self._combine(b, sums[i], sums[i + 1]) for i in range(0, len(sums), 2)]
