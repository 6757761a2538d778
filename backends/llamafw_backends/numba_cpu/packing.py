"""Pack matrices while a model loads: copy their rows into tiles, with 16 rows interleaved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw import Tensor
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler
from llamafw_backends.numba_cpu.kernel_records import I, accessor, address_of, named, new_records
from llamafw_backends.numba_cpu.simd import call_address, load_i64
from llamafw_backends.numba_cpu.threads import Pool, work_range
from llamafw_backends.numba_cpu.tiles import Q8_LAYOUT, ROWS, Format

MAX_SPLIT_ROWS = 128  # of matrices whose columns threads share; see `count_splits`
MAX_SPLITS, MIN_SPLIT_COLUMNS = 16, 256

BYTES_PER_RUN = 8 << 20
"""Bytes of rows that threads pack in one run. Between runs, Python needs its global lock, which another thread that
loads the model may hold: with a run for each matrix, packing the 98 MB of SmolLM2-135M took twice as long."""

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
        ("next", I),  # address of the arguments for other rows, 0 for the last
    ]
)
"""Rows that are copied into the tiles of a matrix."""
_packing_at, _pack_block = accessor(PACKING), call_address(4)


def pack(packing: int, thread: int) -> int:
    """Copy the rows of a record and of those after it into tiles; unused rows of the last tile stay as they are."""
    while packing:
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
        packing = p.next
    return 0


class Packer:
    """Packs rows on all threads, those of several small matrices together.

    Parameters
    ----------
    pool : Pool
        The threads.
    compiler : KernelCompiler
        Compiles the kernels.
    """

    def __init__(self, pool: Pool, compiler: KernelCompiler) -> None:
        self._pool = pool
        self._kernel = compiler("packing", 2, pack)
        self._block_kernels: dict[str, Any] = {}
        self._waiting: list[tuple[npt.NDArray[np.void], npt.NDArray[Any], npt.NDArray[np.int64]]] = []
        self._calls: list[Callable[[], None]] = []
        self._n_bytes = 0

    def compile(self, tile_format: Format, compiler: KernelCompiler) -> None:
        """Compile the kernel that packs a block of a format."""
        name = tile_format.kernel_name("pack")
        self._block_kernels[tile_format.key] = compiler(name, 4, tile_format.pack, has_result=False)

    def add(
        self, tile_format: Format, rows: npt.NDArray[Any], order: npt.NDArray[np.int64], tiles: int, n_columns: int
    ) -> None:
        """Copy rows into tiles, now or together with others.

        Parameters
        ----------
        tile_format : Format
            The format of the tiles.
        rows : array
            (n, …) The rows, as the format's kernel reads them.
        order : array
            For each row of the tiles, its index in ``rows``.
        tiles : int
            The tiles' address.
        n_columns : int
            Number of weights in a row.
        """
        rows, order = np.ascontiguousarray(rows), np.ascontiguousarray(order, np.int64)
        record = new_records(PACKING)
        values = {
            "source": rows.ctypes.data,
            "row_bytes": rows.strides[0],
            "rows": order.ctypes.data,
            "n_rows": len(order),
            "n_blocks": n_columns // tile_format.block_size,
            "tiles": tiles,
            "tile_bytes": tile_format.tile_bytes(n_columns),
            "n_threads": self._pool.n_threads,
            "pack": self._block_kernels[tile_format.key].address,
            "block_bytes": tile_format.block_bytes,
            "block_words": tile_format.block_words,
            "scale_bytes": tile_format.scale_bytes,
            "next": address_of(self._waiting[-1][0]) if self._waiting else 0,
        }
        for name, value in values.items():
            record[name] = value
        self._waiting.append((record, rows, order))
        self._n_bytes += rows.nbytes
        if self._n_bytes >= BYTES_PER_RUN:
            self.run()

    def call_when_packed(self, call: Callable[[], None]) -> None:
        """Call a function when all rows that were added are packed."""
        self._calls.append(call)
        if not self._waiting:
            self.run()

    def run(self) -> None:
        """Copy all rows that were added, then call the functions that wait for them."""
        if self._waiting:
            self._pool.run(self._kernel.address, address_of(self._waiting[-1][0]), self._pool.n_threads)
        for call in self._calls:
            call()
        self._waiting, self._calls, self._n_bytes = [], [], 0


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
