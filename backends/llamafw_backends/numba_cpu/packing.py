"""Kernels that copy the rows of a matrix into tiles, with 16 rows interleaved, while a model loads."""

from __future__ import annotations

from typing import Any

import numpy as np

from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.kernel_records import I, accessor
from llamafw_backends.numba_cpu.simd import (
    absolute,
    copy_16,
    load,
    load_f16,
    load_i64,
    max_lanes,
    maximum,
    mul,
    round_ints,
    splat,
    store_bytes,
    store_f16,
    store_i32,
    xor_32,
)
from llamafw_backends.numba_cpu.threads import work_range

PACKING = np.dtype(
    [
        ("source", I),
        ("row_bytes", I),  # rows in the file's format, or float32 for `round_rows`
        ("rows", I),  # (n_rows,) int64: for each row of the tiles, the number of its row in the source
        ("n_rows", I),
        ("n_blocks", I),
        ("tiles", I),
        ("tile_bytes", I),
        ("n_threads", I),
        ("scratch", I),  # 64 bytes per thread
        # the format: see tiles.TileFormat
        ("source_bytes", I),
        ("words_at", I),
        ("n_words", I),
        ("bias", I),
        ("n_halves", I),
        ("block_bytes", I),
        ("halves_at", I),
        ("halves_stride", I),
    ]
)
"""The arguments of a packing kernel."""
_packing_at = accessor(PACKING)


def pack(packing: int, thread: int) -> int:
    """Copy rows into tiles; missing rows of the last tile become zeros."""
    p = _packing_at(packing)
    first, last = work_range((p.n_rows + 15) // 16, thread, p.n_threads)
    bias = np.int32(p.bias)
    for number in range(first, last):
        tile = p.tiles + number * p.tile_bytes
        for lane in range(16):
            row = 16 * number + lane
            exists = row < p.n_rows
            source = p.source + load_i64(p.rows + 8 * row) * p.row_bytes if exists else p.source
            for block in range(p.n_blocks):
                words = tile + block * p.block_bytes + 4 * lane
                halves = tile + p.halves_at + block * p.halves_stride + 2 * lane
                if exists:
                    for word in range(p.n_words):
                        xor_32(source + p.words_at + 4 * word, bias, words + 64 * word)
                    for half in range(p.n_halves):
                        copy_16(source + 2 * half, halves + 32 * half)
                else:
                    for word in range(p.n_words):
                        store_i32(bias, words + 64 * word)
                source += p.source_bytes
    return 0


@jit
def _round_row(row: int, tile: int, lane: int, p: Any, scratch: int) -> None:
    for block in range(p.n_blocks):
        source, words = row + 128 * block, tile + block * p.block_bytes + 4 * lane
        low, high = load(source), load(source + 64)

        scale = tile + p.halves_at + block * p.halves_stride + 2 * lane
        store_f16(max_lanes(maximum(absolute(low), absolute(high))) / np.float32(127.0), scale)
        d = load_f16(scale)  # rounded
        inverse = splat(np.float32(1.0) / d if d > np.float32(0.0) else np.float32(0.0))

        store_bytes(round_ints(mul(low, inverse)), scratch)
        store_bytes(round_ints(mul(high, inverse)), scratch + 16)
        for word in range(p.n_words):
            xor_32(scratch + 4 * word, np.int32(p.bias), words + 64 * word)


def round_rows(packing: int, thread: int) -> int:
    """Round float32 rows to Q8_0 tiles: d = max|w| / 127 as float16, q = w / d rounded to the nearest."""
    p = _packing_at(packing)
    first, last = work_range((p.n_rows + 15) // 16, thread, p.n_threads)
    for number in range(first, last):
        tile = p.tiles + number * p.tile_bytes
        for lane in range(16):
            row = 16 * number + lane
            if row < p.n_rows:
                _round_row(p.source + load_i64(p.rows + 8 * row) * p.row_bytes, tile, lane, p, p.scratch + 64 * thread)
            else:
                for block in range(p.n_blocks):
                    for word in range(p.n_words):
                        store_i32(np.int32(p.bias), tile + block * p.block_bytes + 64 * word + 4 * lane)
    return 0
