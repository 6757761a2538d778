"""The kernel that copies the rows of a matrix into tiles, with 16 rows interleaved, while a model loads."""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu.kernel_records import I, accessor, named
from llamafw_backends.numba_cpu.simd import call_address, load_i64
from llamafw_backends.numba_cpu.threads import work_range

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
