"""Emit dot products with Intel's AMX, which multiplies matrices in tile registers.

The sums are exact, like those of the instruction sets in `isa`.

The instructions are described in Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.cpu import may_use_amx
from llamafw_backends.numba_cpu.emit import I8, I64, INTS, Builder, Value, address, constant
from llamafw_backends.numba_cpu.isa import (
    HIGH_BITS,
    HIGH_OFFSET,
    LOW_OFFSET,
    RECORD_BYTES,
    DotProducts,
    Pipeline,
    Vnni,
    add_offset,
)


class Amx(Vnni):
    """AMX: ``tdpbsud`` multiplies the bytes of 16 tokens with a block of 16 rows.

    `Vnni` multiplies fewer tokens.

    A tile register has up to 16 rows of 64 bytes. Five registers are used: sums of high parts, sums of low parts (16
    tokens of 16 int32 each), high parts, low parts (16 tokens of 32 bytes each), and the block's 8 words, which have
    the layout that the instruction expects.
    """

    name = "amx"
    required_features = Vnni.required_features | {"amx-tile", "amx-int8"}
    widths = (16, 8, 4, 2, 1)  # not 12: it needs more registers than there are, and is slower than 8 and 4
    tiles_at_once = {16: 1, **Vnni.tiles_at_once}
    min_unpacked = 16
    unpacked_at_once = {32: (16, 1), 16: (16, 1)}
    shapes = ((16, 64), (16, 64), (16, 32), (16, 32), (8, 64))  # (rows, bytes per row) of each register

    def available(self) -> bool:
        """Return whether the processor has AMX and Linux lets this process use the registers."""
        return super().available() and may_use_amx()

    def begin(self, b: Builder) -> None:
        """Emit loading the shapes of the tile registers."""
        config = bytearray(64)
        config[0] = 1  # palette
        for i, (n_rows, n_bytes) in enumerate(self.shapes):
            config[16 + 2 * i], config[48 + i] = n_bytes, n_rows
        where = emit.scratch(b, 64)
        for i in range(8):
            emit.store(b, constant(I64, int.from_bytes(config[8 * i : 8 * i + 8], "little")), address(b, where, 8 * i))
        emit.call(b, "llvm.x86.ldtilecfg", ir.VoidType(), [b.inttoptr(where, ir.PointerType())])

    def end(self, b: Builder) -> None:
        """Emit the release of the registers, which then need not be saved when the thread loses its core."""
        emit.call(b, "llvm.x86.tilerelease", ir.VoidType(), [])

    def pipeline(self, b: Builder, n_tokens: int) -> Pipeline | None:
        """Return the pipeline for 16 tokens; fewer tokens need none."""
        return _AmxPipeline(b, len(self._parts)) if n_tokens == 16 else None


class _AmxPipeline(Pipeline):
    """Multiplies one block ahead, with two buffers used in turn.

    Tile registers exchange data only with memory, so the sums of a block arrive while the next block is multiplied.
    """

    _BUFFER_BYTES = 2048  # 16 · 16 int32 sums of high parts, then as many of low parts

    def __init__(self, b: Builder, n_parts: int) -> None:
        self._unpacked, self._buffers = emit.scratch(b, 512), emit.scratch(b, 2 * self._BUFFER_BYTES)
        self._n_parts = n_parts  # of an activation

    def issue(self, b: Builder, i: Value) -> DotProducts:
        """Return the dot products that multiply block ``i``."""
        return _AmxIssue(self._unpacked, self._buffer(b, i), self._n_parts)

    def collect(self, b: Builder, i: Value) -> DotProducts:
        """Return the dot products that load the sums of block ``i``."""
        return _AmxCollect(self._buffer(b, i), self._n_parts)

    def _buffer(self, b: Builder, i: Value) -> Value:
        return b.add(self._buffers, b.mul(b.and_(i, constant(I64, 1)), constant(I64, self._BUFFER_BYTES)))


class _AmxIssue(DotProducts):
    """Multiplies a block and stores the sums in a buffer."""

    def __init__(self, unpacked: Value, buffer: Value, n_parts: int) -> None:
        self._unpacked, self._buffer, self._n_parts = unpacked, buffer, n_parts

    def dot(
        self, b: Builder, words: Sequence[Value], tokens: Sequence[Value], first: int, bound: int, offset: int
    ) -> list[Value]:
        """Emit the multiplication; the returned values are placeholders."""
        return self._multiply(b, words, tokens)

    def _multiply(self, b: Builder, words: Sequence[Value], tokens: Sequence[Value]) -> list[Value]:
        high_sums, low_sums, high, low, weights = range(len(Amx.shapes))
        for g, word in enumerate(words):
            emit.store(b, word, address(b, self._unpacked, 64 * g), 64)
        _move(b, "tileloadd64", weights, self._unpacked, 64)
        for total, part, offset, start in ((high_sums, high, HIGH_OFFSET, 0), (low_sums, low, LOW_OFFSET, 1024))[
            : self._n_parts
        ]:
            _move(b, "tileloadd64", part, address(b, tokens[0], offset), RECORD_BYTES)
            _tile(b, "tilezero", total)
            _tile(b, "tdpbsud", total, part, weights)
            _move(b, "tilestored64", total, address(b, self._buffer, start), 64)
        return [constant(INTS, 0) for _ in tokens]


class _AmxCollect(DotProducts):
    """Loads the sums that `_AmxIssue` stored in a buffer."""

    def __init__(self, buffer: Value, n_parts: int) -> None:
        self._buffer, self._n_parts = buffer, n_parts

    def dot(
        self, b: Builder, words: Sequence[Value], tokens: Sequence[Value], first: int, bound: int, offset: int
    ) -> list[Value]:
        """Emit 128 · Σ w·high + Σ w·low − offset · Σ x for each token, or Σ w·high − offset · Σ x."""
        return [add_offset(b, self._sum(b, i), token, offset) for i, token in enumerate(tokens)]

    def _sum(self, b: Builder, i: int) -> Value:
        high = emit.load(b, address(b, self._buffer, 64 * i), INTS, 64)
        if self._n_parts == 1:
            return high
        low = emit.load(b, address(b, self._buffer, 1024 + 64 * i), INTS, 64)
        return b.add(b.shl(high, constant(INTS, HIGH_BITS)), low)


def _tile(b: Builder, operation: str, *tiles: int) -> None:
    emit.call(b, f"llvm.x86.{operation}", ir.VoidType(), [constant(I8, tile) for tile in tiles])


def _move(b: Builder, operation: str, tile: int, where: Value, stride: int) -> None:
    pointer = b.inttoptr(where, ir.PointerType())
    emit.call(b, f"llvm.x86.{operation}", ir.VoidType(), [constant(I8, tile), pointer, constant(I64, stride)])
