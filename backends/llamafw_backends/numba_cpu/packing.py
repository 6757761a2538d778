"""Pack matrices while a model loads: the kernel that copies their rows into tiles, with 16 rows interleaved."""

from __future__ import annotations

import numpy as np

from llamafw import Tensor
from llamafw_backends.numba_cpu.kernel_records import I, accessor, named
from llamafw_backends.numba_cpu.simd import call_address, load_i64
from llamafw_backends.numba_cpu.threads import work_range
from llamafw_backends.numba_cpu.tiles import Q8_LAYOUT, ROWS, Format

MAX_SPLIT_ROWS = 128  # of matrices whose columns threads share; see `count_splits`
MAX_SPLITS, MIN_SPLIT_COLUMNS = 16, 256

PACKING = np.dtype(
    [
        ("source", I),
        ("row_bytes", I),
        ("rows", I),  # (n_rows,) int64: for each row of the tiles, the number of its row in the source
        *named(I, "n_rows n_blocks"),
        *named(I, "tiles tile_bytes"),
        ("n_threads", I),
        ("pack", I),  # address of the kernel `tiles.Format.pack`
        *named(I, "block_bytes block_words scale_bytes"),  # of a block: in the source, its words and scales in a tile
    ]
)
"""The arguments of `pack`."""
_packing_at, _pack_block = accessor(PACKING), call_address(4)


def pack(packing: int, thread: int) -> int:
    """Copy rows into tiles; rows that the last tile has no row for are left as they are."""
    p = _packing_at(packing)
    first, last = work_range((p.n_rows + 15) // 16, thread, p.n_threads)
    for number in range(first, last):
        tile = p.tiles + number * p.tile_bytes
        for lane in range(min(16, p.n_rows - 16 * number)):
            source = p.source + load_i64(p.rows + 8 * (16 * number + lane)) * p.row_bytes
            words = tile
            for _ in range(p.n_blocks):
                scales = words + p.block_words
                _pack_block(p.pack, source, words, scales, lane)
                source += p.block_bytes
                words = scales + p.scale_bytes
    return 0


def count_splits(shape: tuple[int, ...], tensor: Tensor, tile_format: Format) -> int:
    """Return how many parts the columns of a matrix are divided into, so that threads can share its few tiles.

    The order of additions depends on it, so it depends on nothing but the matrix.
    """
    n_rows, n_columns = shape[-2:]
    is_float = tile_format.layout != Q8_LAYOUT and tensor.type_name == tile_format.name
    if len(shape) != 2 or not is_float or n_rows > MAX_SPLIT_ROWS or n_rows % ROWS:
        return 1
    counts = range(min(MAX_SPLITS, n_columns // MIN_SPLIT_COLUMNS), 1, -1)
    return next((n for n in counts if n_columns % (n * tile_format.columns) == 0), 1)
