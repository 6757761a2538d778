"""Intel's AMX: matrices multiplied in tile registers. The same exact sums as the sets in `isa`, for 16 tokens at once.

Instructions: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.cpu import may_use_amx
from llamafw_backends.numba_cpu.emit import I8, I32, I64, INTS, Builder, Value, address, constant
from llamafw_backends.numba_cpu.isa import (
    HIGH,
    HIGH_BITS,
    LOW,
    MINUS_1,
    RECORD,
    Dots,
    Stages,
    Vnni,
    Words,
    nibbles,
)


class Amx(Vnni):
    """AMX: ``tdpbsud`` multiplies the bytes of 16 tokens with a tile's block of 16 rows; fewer tokens are `Vnni`'s.

    A tile register has up to 16 rows of 64 bytes. Ours hold: sums of high parts, sums of low parts (16 tokens of 16
    int32), high parts, low parts (16 tokens of 32 bytes), and the block's 8 words, which are laid out just so.
    """

    name = "amx"
    needs = Vnni.needs | {"amx-tile", "amx-int8"}
    widths = (16, 8, 4, 2, 1)  # 12 need more registers than there are, and are slower than 8 and 4 on these processors
    tiles = {16: 1, **Vnni.tiles}
    shapes = ((16, 64), (16, 64), (16, 32), (16, 32), (8, 64))  # rows, bytes of a row

    def available(self) -> bool:
        """Return whether the processor has it and Linux has granted the registers, which must be asked for."""
        return super().available() and may_use_amx()

    def begin(self, b: Builder) -> None:
        """Load the shapes of the tile registers."""
        config = bytearray(64)
        config[0] = 1  # palette
        for i, (n_rows, n_bytes) in enumerate(self.shapes):
            config[16 + 2 * i], config[48 + i] = n_bytes, n_rows
        where = emit.scratch(b, 64)
        for i in range(8):
            emit.store(b, constant(I64, int.from_bytes(config[8 * i : 8 * i + 8], "little")), address(b, where, 8 * i))
        emit.call(b, "llvm.x86.ldtilecfg", ir.VoidType(), [b.inttoptr(where, ir.PointerType())])

    def end(self, b: Builder) -> None:
        """Release the registers, so that nobody has to save them when the thread loses its core."""
        emit.call(b, "llvm.x86.tilerelease", ir.VoidType(), [])

    def stages(self, b: Builder, n_tokens: int) -> Stages | None:
        """Return how to multiply one block ahead, for 16 tokens."""
        return _AmxStages(b) if n_tokens == 16 else None


class _AmxStages(Stages):
    """Sums go through memory, and take longer to come back than a block takes: two buffers, used in turn."""

    _BUFFER = 2048  # bytes: sums of high parts, sums of low parts

    def __init__(self, b: Builder) -> None:
        self._unpacked, self._buffers = emit.scratch(b, 512), emit.scratch(b, 2 * self._BUFFER)

    def issue(self, b: Builder, i: Value) -> Dots:
        """Return what multiplies block ``i``."""
        return _AmxIssue(self._unpacked, self._buffer(b, i))

    def collect(self, b: Builder, i: Value) -> Dots:
        """Return what finds the sums of block ``i``."""
        return _AmxCollect(self._buffer(b, i))

    def _buffer(self, b: Builder, i: Value) -> Value:
        return b.add(self._buffers, b.mul(b.and_(i, constant(I64, 1)), constant(I64, self._BUFFER)))


class _AmxIssue(Dots):
    """Multiplies a block, and leaves the sums in a buffer."""

    def __init__(self, unpacked: Value, buffer: Value) -> None:
        self._unpacked, self._buffer = unpacked, buffer

    def dot_u4(self, b: Builder, words: Words, tokens: Sequence[Value]) -> list[Value]:
        """Emit the multiplication. The dot products returned mean nothing."""
        pairs = [nibbles(b, words(g)) for g in range(4)]
        return self._multiply(b, [low for low, _ in pairs] + [high for _, high in pairs], tokens)

    def dot_s8(self, b: Builder, words: Words, tokens: Sequence[Value]) -> list[Value]:
        """Emit the multiplication. The dot products returned mean nothing."""
        return self._multiply(b, [words(g) for g in range(8)], tokens)

    def _multiply(self, b: Builder, words: Sequence[Value], tokens: Sequence[Value]) -> list[Value]:
        high_sums, low_sums, high, low, weights = range(len(Amx.shapes))
        for g, word in enumerate(words):
            emit.store(b, word, address(b, self._unpacked, 64 * g), 64)
        _move(b, "tileloadd64", high, address(b, tokens[0], HIGH), RECORD)
        _move(b, "tileloadd64", low, address(b, tokens[0], LOW), RECORD)
        _move(b, "tileloadd64", weights, self._unpacked, 64)
        for total, part, start in ((high_sums, high, 0), (low_sums, low, 1024)):
            _tile(b, "tilezero", total)
            _tile(b, "tdpbsud", total, part, weights)
            _move(b, "tilestored64", total, address(b, self._buffer, start), 64)
        return [constant(INTS, 0) for _ in tokens]


class _AmxCollect(Dots):
    """Finds in a buffer what `_AmxIssue` left there."""

    def __init__(self, buffer: Value) -> None:
        self._buffer = buffer

    def dot_u4(self, b: Builder, words: Words, tokens: Sequence[Value]) -> list[Value]:
        """Return 128 · Σ w·high + Σ w·low for each token."""
        return [self._both(b, *self._sums(b, i)) for i in range(len(tokens))]

    def dot_s8(self, b: Builder, words: Words, tokens: Sequence[Value]) -> list[Value]:
        """Return the same with −128 · Σ x added."""
        dots = []
        for i, token in enumerate(tokens):
            high, low = self._sums(b, i)
            dots.append(self._both(b, b.add(high, emit.load_splat(b, address(b, token, MINUS_1), I32)), low))
        return dots

    def _sums(self, b: Builder, i: int) -> tuple[Value, Value]:
        high = emit.load(b, address(b, self._buffer, 64 * i), INTS, 64)
        return high, emit.load(b, address(b, self._buffer, 1024 + 64 * i), INTS, 64)

    def _both(self, b: Builder, high: Value, low: Value) -> Value:
        return b.add(b.shl(high, constant(INTS, HIGH_BITS)), low)


def _tile(b: Builder, operation: str, *tiles: int) -> None:
    emit.call(b, f"llvm.x86.{operation}", ir.VoidType(), [constant(I8, tile) for tile in tiles])


def _move(b: Builder, operation: str, tile: int, where: Value, stride: int) -> None:
    pointer = b.inttoptr(where, ir.PointerType())
    emit.call(b, f"llvm.x86.{operation}", ir.VoidType(), [constant(I8, tile), pointer, constant(I64, stride)])
