"""Arrange bits of weights: while they are packed into words, and in the code that unpacks words."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.cpu import IS_ARM, features
from llamafw_backends.numba_cpu.emit import I8, INTS, Builder, Value, constant
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.simd import read_u8, read_u16, read_u32, write_u8, write_u16, write_u32
from llamafw_backends.numba_cpu.tiles import Record

_BYTES = ir.VectorType(I8, 64)  # of a word
NIBBLES, CRUMBS, BITS = 0x0F0F0F0F, 0x03030303, 0x01010101  # masks of 4, 2 and 1 bits of each byte

# --- while a model loads: numbers of a row, 4 columns per int64 --------------------------------------


@jit
def copy_words(source: int, n: int, words: int, lane: int) -> None:
    """Copy ``n`` groups of 4 bytes of a row to the words ``words`` …"""
    for i in range(n):
        write_u32(read_u32(source + 4 * i), words + 64 * i + 4 * lane)


@jit
def copy_halves(source: int, n: int, halves: int, lane: int) -> None:
    """Copy ``n`` float16 of a row to arrays of 16."""
    for i in range(n):
        write_u16(read_u16(source + 2 * i), halves + 32 * i + 2 * lane)


@jit
def copy_bytes(source: int, n: int, numbers: int, lane: int) -> None:
    """Copy ``n`` bytes of a row to arrays of 16."""
    for i in range(n):
        write_u8(read_u8(source + i), numbers + 16 * i + lane)


@jit
def pack_nibbles(low: int, high: int, shift: int, words: int, lane: int) -> None:
    """Write 4 words: columns 0–15 into low, and 16–31 into high nibbles.

    ``low`` and ``high`` are the addresses of 16 bytes each, whose nibbles begin at bit ``shift``.
    """
    for i in range(4):
        a, b = read_u32(low + 4 * i) >> shift, read_u32(high + 4 * i) >> shift
        write_u32((a & NIBBLES) | ((b & NIBBLES) << 4), words + 64 * i + 4 * lane)


@jit
def pack_crumbs(source: int, shift: int, words: int, lane: int) -> None:
    """Write 2 words of 2 bits per column, as `spread` reads them.

    ``source`` is the address of 32 bytes, one per column, whose 2 bits begin at bit ``shift``.
    """
    for i in range(2):
        word = 0
        for j in range(4):
            word |= ((read_u32(source + 16 * i + 4 * j) >> shift) & CRUMBS) << (2 * j)
        write_u32(word, words + 64 * i + 4 * lane)


@jit
def pack_bits(source: int, shift: int, words: int, lane: int) -> None:
    """Write 1 word of 1 bit per column, as `spread` reads it; ``source`` and ``shift`` as in `pack_crumbs`."""
    word = 0
    for i in range(8):
        word |= ((read_u32(source + 4 * i) >> shift) & BITS) << i
    write_u32(word, words + 4 * lane)


@jit
def pack_bit_string(bits: int, words: int, lane: int) -> None:
    """Write 1 word of 1 bit per column, as `spread` reads it; column ``i`` has bit ``i`` of ``bits``."""
    word = 0
    for i in range(8):
        word |= (((bits >> 4 * i & 15) * 0x204081) & BITS) << i  # the product moves bit j to bit 8j
    write_u32(word, words + 4 * lane)


@jit
def transpose_crumbs(word: int) -> int:
    """Return a word of 4 · 4 numbers of 2 bits: number ``j`` of byte ``i`` has become number ``i`` of byte ``j``."""
    change = (word ^ word >> 12) & 0x0000F0F0
    word ^= change ^ change << 12
    change = (word ^ word >> 6) & 0x00CC00CC
    return word ^ change ^ change << 6


# --- in kernels: words of 16 rows -------------------------------------------------------------------


def mask(record: Record, word: Value, bits: int) -> Value:
    """Emit the bits of each byte that are in ``bits``."""
    return record.b.and_(word, constant(INTS, bits))


def nibbles(record: Record, first: int = 0) -> list[Value]:
    """Emit 8 words of bytes from 4 words: low nibbles are columns 0–15, high nibbles columns 16–31."""
    words = [record.word(first + i) for i in range(4)]
    high = [mask(record, record.b.lshr(word, constant(INTS, 4)), NIBBLES) for word in words]
    return [mask(record, word, NIBBLES) for word in words] + high


def spread(record: Record, first: int, n_bits: int, to: int) -> list[Value]:
    """Emit 8 words whose bytes have ``n_bits`` bits, 1 or 2, beginning at bit ``to``.

    They are read from the words ``first`` …, where the bits of 8 / ``n_bits`` groups of columns follow one another.
    """
    loaded = [record.word(first + i) for i in range(n_bits)]
    at_once, bits = 8 // n_bits, (CRUMBS if n_bits == 2 else BITS) << to
    return [mask(record, _shift(record, loaded[g // at_once], to - n_bits * (g % at_once)), bits) for g in range(8)]


def combine(record: Record, *parts: list[Value]) -> list[Value]:
    """Emit words with the bits of all parts."""
    words = parts[0]
    for other in parts[1:]:
        words = [record.b.or_(a, b) for a, b in zip(words, other, strict=True)]
    return words


def look_up(record: Record, table: Sequence[int], words: Sequence[Value]) -> list[Value]:
    """Emit words of the bytes of a table at given indices.

    Parameters
    ----------
    record : Record
        Receives the code.
    table : sequence of int
        16 bytes.
    words : sequence of Value
        Words of indices from 0 to 15.
    """
    b = record.b
    return [b.bitcast(_look_up(b, table, b.bitcast(word, _BYTES)), INTS) for word in words]


def _look_up(b: Builder, table: Sequence[int], indices: Value) -> Value:
    """Emit the bytes of a table at 64 indices."""
    if IS_ARM:
        return _in_parts(b, "llvm.aarch64.neon.tbl1.v16i8", table, indices, 16)
    for feature, name, n in _SHUFFLES:
        if feature in features():
            return _in_parts(b, name, table, indices, n)

    found = [constant(_BYTES, byte) for byte in table]  # of which each bit of an index selects one half
    for bit in range(4):
        is_set = b.icmp_unsigned("!=", b.and_(indices, constant(_BYTES, 1 << bit)), constant(_BYTES, 0))
        found = [b.select(is_set, odd, even) for even, odd in zip(found[::2], found[1::2], strict=True)]
    return found[0]


_SHUFFLES = (  # an instruction for n bytes: the feature, its name, n
    ("avx512bw", "llvm.x86.avx512.pshuf.b.512", 64),
    ("avx2", "llvm.x86.avx2.pshuf.b", 32),
    ("ssse3", "llvm.x86.ssse3.pshuf.b.128", 16),
)


def _in_parts(b: Builder, name: str, table: Sequence[int], indices: Value, n: int) -> Value:
    """Emit look-ups of 64 indices with an instruction for ``n``."""
    kind = ir.VectorType(I8, n)
    bytes_at = ir.Constant(kind, [*table] * (n // 16))
    parts = [
        emit.call(b, name, kind, [bytes_at, emit.take(b, indices, list(range(first, first + n)))])
        for first in range(0, 64, n)
    ]
    while len(parts) > 1:
        parts = [emit.join(b, *pair) for pair in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _shift(record: Record, word: Value, n: int) -> Value:
    """Emit a shift to the left, or to the right if ``n`` is negative; bits of other bytes come in."""
    if n == 0:
        return word
    return record.b.shl(word, constant(INTS, n)) if n > 0 else record.b.lshr(word, constant(INTS, -n))
