"""Dot products of weights and activations, the one thing that each instruction set does its own way.

A set multiplies one block of 32 columns of a 16-row tile with the activations of several tokens, and yields one exact
int32 sum per row and token. Which of them runs never changes a result.

Weights come as words: 16 lanes of 4 bytes, lane r holding 4 neighbouring columns of row r. Activations come as records,
written by `elementwise.quantize`: 15 bits each, in two bytes, since 8 bits would move every twentieth token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from llvmlite import ir

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.cpu import IS_X86, features
from llamafw_backends.numba_cpu.emit import I8, I16, I32, INTS, Builder, Value, address, constant

# A record: 32 activations ≈ scale · x with x = 128 · high + low, |high| ≤ 127, −64 ≤ low < 64
HIGH, LOW = 0, 32  # (32,) int8 each
SCALE, SUM = 64, 68  # float32 scale, scale · Σx
MINUS_1, MINUS_8 = 72, 76  # int32 −Σx, −8 · Σx
RECORD = 80  # bytes
HIGH_BITS = 7
LARGEST = 127 << HIGH_BITS  # |x|

Words = Callable[[int], Value]  # number of a word in the block → its 16 lanes of 4 bytes


class Dots(ABC):
    """How to multiply bytes."""

    @abstractmethod
    def dot_u4(self, b: Builder, words: Words, tokens: Sequence[Value]) -> list[Value]:
        """Return Σ w·x for each token: 4 words of nibbles, the low ones columns 0–15, the high ones 16–31."""

    @abstractmethod
    def dot_s8(self, b: Builder, words: Words, tokens: Sequence[Value]) -> list[Value]:
        """Return Σ (w − 128)·x for each token: 8 words of unsigned bytes."""


class Stages(ABC):
    """How to multiply in two stages, where results take their time: block i + 1 is issued, then block i collected."""

    @abstractmethod
    def issue(self, b: Builder, i: Value) -> Dots:
        """Return what begins to multiply block ``i``; what it returns means nothing yet."""

    @abstractmethod
    def collect(self, b: Builder, i: Value) -> Dots:
        """Return what has the results of block ``i``."""


class InstructionSet(Dots):
    """How to multiply bytes, and how much to do at once."""

    name: str
    needs: frozenset[str]  # features of the processor
    widths: tuple[int, ...]  # tokens multiplied at once, descending; the last is 1
    tiles: dict[int, int]  # for each width, tiles multiplied at once

    def available(self) -> bool:
        """Return whether this processor has it, and the operating system lets us use it."""
        return self.needs <= features() and (IS_X86 or not self.needs)

    def begin(self, b: Builder) -> None:
        """Emit what comes before a thread's first multiplication of a kernel."""

    def end(self, b: Builder) -> None:
        """Emit what comes after the last one."""

    def stages(self, b: Builder, n_tokens: int) -> Stages | None:
        """Return how to multiply ``n_tokens`` tokens in two stages; None: in one."""
        return None


def nibbles(b: Builder, word: Value) -> tuple[Value, Value]:
    mask = constant(word.type, 0x0F0F0F0F)
    return b.and_(word, mask), b.and_(b.lshr(word, constant(word.type, 4)), mask)


class Vnni(InstructionSet):
    """AVX-512 VNNI: ``vpdpbusd`` adds four products of unsigned and signed bytes in each of 16 lanes."""

    name = "avx512vnni"
    needs = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512vnni"})
    widths: tuple[int, ...] = (12, 8, 4, 2, 1)
    tiles = {12: 1, 8: 1, 4: 2, 2: 4, 1: 4}

    def _dot(self, b: Builder, total: Value, words: Sequence[Value], part: Value) -> Value:
        for g, word in enumerate(words):
            quants = emit.load_splat(b, address(b, part, 4 * g), I32)
            total = emit.call(b, "llvm.x86.avx512.vpdpbusd.512", INTS, [total, word, quants])
        return total

    def _both(self, b: Builder, start: Value, words: Sequence[Value], token: Value) -> Value:
        """Return start · 128 + Σ w·x."""
        high = self._dot(b, start, words, address(b, token, HIGH))
        return self._dot(b, b.shl(high, constant(INTS, HIGH_BITS)), words, address(b, token, LOW))

    def dot_u4(self, b: Builder, words: Words, tokens: Sequence[Value]) -> list[Value]:
        pairs = [nibbles(b, words(g)) for g in range(4)]
        unpacked = [low for low, _ in pairs] + [high for _, high in pairs]
        return [self._both(b, constant(INTS, 0), unpacked, token) for token in tokens]

    def dot_s8(self, b: Builder, words: Words, tokens: Sequence[Value]) -> list[Value]:
        loaded = [words(g) for g in range(8)]
        return [self._both(b, emit.load_splat(b, address(b, token, MINUS_1), I32), loaded, token) for token in tokens]


class Avx2(InstructionSet):
    """AVX2: ``vpmaddubsw`` adds two products into 16 bits, saturating, so what goes in must be small enough.

    Nibbles: 8 words · 2 · 15 · 127 < 2¹⁵, so a whole block is summed in 16 bits. Bytes: |w| ≤ 128 goes in unsigned, and
    its sign moves to the activation: 2 · 128 · 127 < 2¹⁵.
    """

    name = "avx2"
    needs = frozenset({"avx2", "fma"})
    widths = (3, 2, 1)
    tiles = {3: 1, 2: 1, 1: 1}
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
        parts = [address(b, token, part) for token in tokens for part in (HIGH, LOW)]
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
                for part, factor in ((HIGH, 1 << HIGH_BITS), (LOW, 1)):
                    quants = self._quants(b, address(b, token, part), g)
                    for h in (0, 1):
                        turned = emit.call(b, "llvm.x86.avx2.psign.b", self._bytes, [quants, signed[h]])
                        total[h] = b.add(total[h], self._widen(b, self._pairs(b, sizes[h], turned), factor))
        return [emit.join(b, *total) for total in sums]


class Plain(InstructionSet):
    """Any processor, ARM included: multiplications of 16 bits, which every vector unit has.

    A word is 32 lanes of 16 bits, of two bytes each: even bytes and odd bytes are multiplied apart. Sums of nibbles fit
    16 bits over the whole block (as in `Avx2`), sums of two bytes too (2 · 128 · 127 < 2¹⁵).
    """

    name = "plain"
    needs = frozenset[str]()
    widths = (4, 2, 1)
    tiles = {4: 1, 2: 1, 1: 1}
    _shorts = ir.VectorType(I16, 32)

    def _split(self, b: Builder, word: Value, *, signed: bool) -> tuple[Value, Value]:
        eight, shorts = constant(self._shorts, 8), b.bitcast(word, self._shorts)
        right = b.ashr if signed else b.lshr
        return right(b.shl(shorts, eight), eight), right(shorts, eight)

    def _products(self, b: Builder, even: Value, odd: Value, part: Value, group: int) -> Value:
        """Return sums of two products, of neighbouring columns."""
        quants = emit.load_splat(b, address(b, part, 4 * group), I32)
        first, second = self._split(b, quants, signed=True)
        return b.add(b.mul(even, first), b.mul(odd, second))

    def _widen(self, b: Builder, shorts: Value) -> Value:
        pairs, sixteen = b.bitcast(shorts, INTS), constant(INTS, 16)
        return b.add(b.ashr(b.shl(pairs, sixteen), sixteen), b.ashr(pairs, sixteen))

    def _combine(self, b: Builder, high: Value, low: Value) -> Value:
        return b.add(b.shl(high, constant(INTS, HIGH_BITS)), low)

    def dot_u4(self, b: Builder, words: Words, tokens: Sequence[Value]) -> list[Value]:
        parts = [address(b, token, part) for token in tokens for part in (HIGH, LOW)]
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
        parts = [address(b, token, part) for token in tokens for part in (HIGH, LOW)]
        sums = [constant(INTS, 0)] * len(parts)
        for g in range(8):
            even, odd = self._split(b, b.xor(words(g), constant(INTS, 0x80808080)), signed=True)
            sums = [
                b.add(total, self._widen(b, self._products(b, even, odd, part, g)))
                for total, part in zip(sums, parts, strict=True)
            ]
        return [self._combine(b, sums[i], sums[i + 1]) for i in range(0, len(sums), 2)]
