"""Small matrices are packed together: the same tiles as one by one, and functions are called when they are packed."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from llamafw_backends.numba_cpu import packing
from llamafw_backends.numba_cpu.formats import FORMATS
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler
from llamafw_backends.numba_cpu.packing import Packer
from llamafw_backends.numba_cpu.threads import Pool

pytestmark = pytest.mark.slow

N_COLUMNS = 256
TYPES = ("Q8_0", "Q4_K", "F16")


@cache
def packer() -> Packer:
    compiler = KernelCompiler(lambda line: None)
    made = Packer(Pool(2, compiler), compiler)
    for name in TYPES:
        made.compile(FORMATS[name], compiler)
    return made


def random_rows(name: str, n_rows: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return rows of random bytes, and a random order of them."""
    random = np.random.default_rng(n_rows)
    row_bytes = N_COLUMNS // FORMATS[name].block_size * FORMATS[name].block_bytes
    return random.integers(0, 256, (n_rows, row_bytes), np.uint8), random.permutation(n_rows)


def new_tiles(name: str, n_rows: int) -> npt.NDArray[np.uint8]:
    return np.zeros(-(-n_rows // 16) * FORMATS[name].tile_bytes(N_COLUMNS), np.uint8)


def test_packing_together_gives_the_same_tiles() -> None:
    sizes = [(name, n_rows) for name in TYPES for n_rows in (1, 16, 40, 100)]
    alone, together = ([new_tiles(*size) for size in sizes] for _ in range(2))
    for (name, n_rows), tiles in zip(sizes, alone, strict=True):
        packer().add(FORMATS[name], *random_rows(name, n_rows), int(tiles.ctypes.data), N_COLUMNS)
        packer().run()
    for (name, n_rows), tiles in zip(sizes, together, strict=True):
        packer().add(FORMATS[name], *random_rows(name, n_rows), int(tiles.ctypes.data), N_COLUMNS)
        assert not tiles.any()
    packer().run()
    for expected, tiles in zip(alone, together, strict=True):
        assert expected.any()
        np.testing.assert_array_equal(tiles, expected)


def test_functions_are_called_after_packing() -> None:
    tiles = new_tiles("Q8_0", 16)
    seen: list[object] = []
    packer().call_when_packed(lambda: seen.append("nothing waits"))
    assert seen == ["nothing waits"]

    packer().add(FORMATS["Q8_0"], *random_rows("Q8_0", 16), int(tiles.ctypes.data), N_COLUMNS)
    packer().call_when_packed(lambda: seen.append(bool(tiles.any())))
    assert len(seen) == 1
    packer().run()
    assert seen[1:] == [True]
    packer().run()
    assert len(seen) == 2


def test_rows_are_packed_when_enough_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, order = random_rows("Q8_0", 16)
    monkeypatch.setattr(packing, "BYTES_PER_RUN", 2 * rows.nbytes)
    tiles = [new_tiles("Q8_0", 16) for _ in range(3)]
    for one in tiles:
        packer().add(FORMATS["Q8_0"], rows, order, int(one.ctypes.data), N_COLUMNS)
    assert [bool(one.any()) for one in tiles] == [True, True, False]
    packer().run()
    assert tiles[2].any()
