"""Tiles of types with codebooks hold the exact weights, whether entries are looked up in registers or in memory."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest

from llamafw.testing.random_tensors import random_tensor
from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.cpu import has_byte_permutes
from llamafw_backends.numba_cpu.formats import FORMATS, grids
from llamafw_backends.numba_cpu.simd import i64, operation, void
from llamafw_backends.numba_cpu.tiles import ROWS, QuantFormat, Record
from support.gguf_models import QUANTS

TYPES = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")
N_RECORDS = 8  # per block


def pack(tile_format: QuantFormat, blocks: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], int]:
    """Return a tile of one block of each row, and the place of the scales."""
    kernel = numba.cfunc(numba.void(*[numba.int64] * 4))(tile_format.pack).ctypes
    n_words = tile_format.block_words
    tile = np.full(tile_format.tile_bytes(tile_format.block_size), 0xA5, np.uint8)  # what was there does not matter
    for lane, block in enumerate(blocks):
        kernel(block.ctypes.data, tile.ctypes.data, tile.ctypes.data + n_words, lane)
    return tile, n_words


def unpack(tile_format: QuantFormat, tile: npt.NDArray[np.uint8], n_words: int) -> npt.NDArray[np.float64]:
    """Return the weights of a tile, as a kernel multiplies them."""
    n_scales = 32 // tile_format.columns_per_scale

    def emitter(b: Any, words: Any, scales: Any, number: Any, out: Any) -> None:
        record = Record(b, words, scales, number)
        minima = tile_format.minimum(record) or [emit.constant(emit.FLOATS, 0.0)] * n_scales
        for i, vector in enumerate([*tile_format.bytes(record), *tile_format.scale(record), *minima]):
            emit.store(b, vector, emit.address(b, out, 64 * i))

    load = operation(void, (i64,) * 4, emitter)
    kernel = numba.cfunc(numba.void(*[numba.int64] * 4))(lambda w, s, n, out: load(w, s, n, out)).ctypes

    weights = np.empty((ROWS, N_RECORDS, n_scales, tile_format.columns_per_scale))
    for number in range(N_RECORDS):
        out = np.empty((8 + 2 * n_scales, 64), np.uint8)
        words = tile.ctypes.data + number * tile_format.word_bytes
        kernel(words, tile.ctypes.data + n_words, number, out.ctypes.data)
        numbers = out[:8].reshape(8, ROWS, 4).transpose(1, 0, 2).reshape(ROWS, n_scales, -1)
        assert numbers.max() <= tile_format.bound
        scale, minimum = out[8:].view(np.float32).reshape(2, n_scales, ROWS).transpose(0, 2, 1)[..., None].astype(float)
        weights[:, number] = scale * (numbers - float(tile_format.offset)) + minimum
    return weights.reshape(ROWS, -1)


@pytest.mark.parametrize("in_registers", [False, True] if has_byte_permutes() else [False])
@pytest.mark.parametrize("type_name", TYPES)
def test_tiles_hold_the_exact_weights(type_name: str, in_registers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grids, "has_byte_permutes", lambda: in_registers)
    tile_format = FORMATS[type_name]
    assert isinstance(tile_format, QuantFormat)
    blocks = random_tensor(np.random.default_rng(0), (ROWS, 256), type_name, std=0.1).view(np.uint8)

    weights = unpack(tile_format, *pack(tile_format, blocks))

    np.testing.assert_array_equal(weights, QUANTS[type_name].dequantize(blocks.reshape(-1), (ROWS, 256)))


@pytest.mark.parametrize("type_name", TYPES)
def test_tiles_are_hardly_larger_than_the_file(type_name: str) -> None:
    tile_format = FORMATS[type_name]
    assert tile_format.tile_bytes(4096) <= 1.07 * ROWS * 4096 // 256 * tile_format.block_bytes
