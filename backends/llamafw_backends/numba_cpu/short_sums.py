"""Emit dot products for processors without dot products of bytes: sums of a few products are added in 16 bits."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.emit import I8, I16, I32, INTS, Builder, Value, address, constant
from llamafw_backends.numba_cpu.isa import HIGH_BITS, InstructionSet, add_offset


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
    unpacked_at_once = {32: (3, 1), 16: (3, 1)}
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
        parts = [(total, token, *part) for total, token in zip(totals, tokens, strict=True) for part in self._parts]
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
                for part, factor in self._parts:
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
    unpacked_at_once = {32: (4, 1), 16: (4, 1)}
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
        at_once, totals = sums_in_shorts(min(bound, 127)), [constant(INTS, 0) for _ in tokens for _ in self._parts]
        parts = [address(b, token, part) for token in tokens for part, _ in self._parts]
        for g in range(0, len(words), at_once):
            sums = [constant(self._shorts, 0)] * len(parts)
            for group in range(g, min(g + at_once, len(words))):
                even, odd = self._split(b, words[group], signed=signed)
                sums = [
                    b.add(total, self._products(b, even, odd, part, first + group))
                    for total, part in zip(sums, parts, strict=True)
                ]
            totals = [b.add(total, self._widen(b, shorts)) for total, shorts in zip(totals, sums, strict=True)]
        dots = totals
        if len(self._parts) > 1:
            dots = [b.add(b.shl(totals[i], constant(INTS, HIGH_BITS)), totals[i + 1]) for i in range(0, len(totals), 2)]
        return [
            add_offset(b, dot, token, 0 if signed else offset, first, len(words))
            for dot, token in zip(dots, tokens, strict=True)
        ]
