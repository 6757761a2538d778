"""Unpack the bytes and scales of tiles, which are then multiplied with many groups of tokens.

A prompt has many tokens. Unpacking a tile once for all of them leaves only products, and as the bytes are read from
memory, registers are free for the sums of more tokens. Every `QuantFormat` becomes the same layout: the 8 words of a
record, its scales and its minima. They are what the format emits, so results are the same to the bit.
"""

from __future__ import annotations

from typing import Any, TypeGuard

from llvmlite import ir

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.emit import FLOATS, I8, I64, INTS, Builder, Value, address, constant
from llamafw_backends.numba_cpu.formats import FORMATS
from llamafw_backends.numba_cpu.instruction_sets import find_set
from llamafw_backends.numba_cpu.isa import InstructionSet
from llamafw_backends.numba_cpu.simd import specialised
from llamafw_backends.numba_cpu.tiles import COLUMNS, Format, QuantFormat, Record, element_address, record_at

TILES = 8  # unpacked at once, so that activations are read once for all of them
BUFFER_BYTES = 512 << 10  # but at most so many bytes, or one tile: they should stay in a second-level cache
_WORD_BYTES, _VECTOR_BYTES = 16 * COLUMNS, 64
_BYTES = ir.VectorType(I8, _VECTOR_BYTES)
_FETCH_AHEAD = 8192  # bytes


class Unpacked(QuantFormat):
    """The weights of another format, as bytes with float32 scales and minima."""

    block_size, word_bytes = COLUMNS, _WORD_BYTES

    def __init__(self, packed: QuantFormat, isa: InstructionSet) -> None:
        self.name = f"{packed.name} unpacked"
        self.offset = isa.unpacked_offset if packed.offset and isa.unpacked_offset else packed.offset
        self.bound, self.columns_per_scale = packed.bound + self.offset - packed.offset, packed.columns_per_scale
        self._n_scales, self._n_minima = COLUMNS // packed.columns_per_scale, _count_minima(packed)
        self.scale_bytes = _VECTOR_BYTES * (self._n_scales + self._n_minima)

    @staticmethod
    def pack(source: int, words: int, scales: int, lane: int) -> None:
        """Not used: `unpack_tiles` writes this layout."""

    @staticmethod
    def unpack(source: int, out: int) -> None:
        """Not used: no file has this layout."""

    def bytes(self, record: Record) -> list[Value]:
        return [record.word(i) for i in range(COLUMNS // 4)]

    def scale(self, record: Record) -> list[Value]:
        return [self._vector(record, i) for i in range(self._n_scales)]

    def minimum(self, record: Record) -> list[Value]:
        return [self._vector(record, self._n_scales + i) for i in range(self._n_minima)]

    def _vector(self, record: Record, i: int) -> Value:
        return emit.load(record.b, record.scale_address(_VECTOR_BYTES * i), FLOATS)


def can_unpack(tile_format: Format) -> TypeGuard[QuantFormat]:
    """Return whether bytes and scales are all that a format's multiplication needs."""
    return isinstance(tile_format, QuantFormat) and type(tile_format).multiply is QuantFormat.multiply


def record_bytes(tile_format: Format) -> int:
    """Return the size of an unpacked record; 0 if the format cannot be unpacked."""
    if not can_unpack(tile_format):
        return 0
    return _WORD_BYTES + _VECTOR_BYTES * (COLUMNS // tile_format.columns_per_scale + _count_minima(tile_format))


def buffer_bytes(tile_format: Format, n_columns: int) -> int:
    """Return the size of the memory for tiles of ``n_columns`` that are unpacked at once."""
    n_bytes = n_columns // COLUMNS * record_bytes(tile_format)
    return max(n_bytes, min(TILES * n_bytes, BUFFER_BYTES))


def _count_minima(packed: QuantFormat) -> int:
    """Return how many minima a record of a format has."""
    function = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), [I64] * 3), "count")
    b = ir.IRBuilder(function.append_basic_block())
    return len(packed.minimum(Record(b, *function.args)))


def _increase(b: Builder, words: list[Value], n: int) -> list[Value]:
    """Emit words whose bytes are larger by ``n``."""
    return [b.bitcast(b.add(b.bitcast(word, _BYTES), constant(_BYTES, n)), INTS) for word in words] if n else words


def _emit_unpack_tiles(b: Builder, arguments: list[Value], isa: str, key: str) -> None:
    """Emit unpacking ``n_tiles`` tiles of ``n_records`` records to ``out``."""
    packed = FORMATS[key]
    if not can_unpack(packed):
        return
    unpacked = Unpacked(packed, find_set(isa))
    weights, tile_bytes, n_tiles, n_records, out = arguments
    size = record_bytes(packed)
    packed_bytes = packed.tile_bytes(packed.block_size) // packed.records_per_block

    def unpack_tile(tile: Value, _: list[Value]) -> list[Value]:
        start = b.add(weights, b.mul(tile, tile_bytes))
        to_tile = b.add(out, b.mul(tile, b.mul(n_records, constant(I64, size))))

        def unpack_record(i: Value, _: list[Value]) -> list[Value]:
            ahead = element_address(b, address(b, start, _FETCH_AHEAD), i, packed_bytes)
            for line in range(0, packed_bytes, 64):
                emit.prefetch(b, address(b, ahead, line), level=1)
            record, to = record_at(b, packed, start, i), element_address(b, to_tile, i, size)
            words = _increase(b, packed.bytes(record), unpacked.offset - packed.offset)
            for j, vector in enumerate([*words, *packed.scale(record), *packed.minimum(record)]):
                emit.store(b, vector, address(b, to, _VECTOR_BYTES * j), _VECTOR_BYTES)
            return []

        emit.loop(b, n_records, [], unpack_record)
        return []

    emit.loop(b, n_tiles, [], unpack_tile)


unpack_tiles: Any = specialised("unpack tiles", 2, 5, _emit_unpack_tiles)
