"""Each tensor type is read exactly, and multiplied with its exact weights: matrices, and those of experts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from llamafw import Bytes
from llamafw.testing.quant_kernels import MakeBlocks, check_products, check_rows
from llamafw.testing.random_tensors import random_tensor
from llamafw_backends.onnx.block_formats import FORMATS, BlockCodes
from support.gguf_models import QUANTS
from support.onnx_backend import opened
from support.quant_references import REFERENCES

N_ROWS, N_BLOCKS = 16, 4
NOT_FOR_WEIGHTS = ("Q8_1", "Q8_K", "F64", "I8", "I16", "I32", "I64")
NAMES = [name for name in QUANTS if name not in NOT_FOR_WEIGHTS]
OFFSETS = ("Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K")
"""The types that add a number to each block; sums of two float32 numbers are rounded."""


def block_maker(type_name: str) -> MakeBlocks:
    """Return a function that makes random blocks of a type, with a standard deviation of 0.1."""

    def make_blocks(rng: np.random.Generator, n: int) -> Bytes:
        shape = (n, QUANTS[type_name].block_size)
        return random_tensor(rng, shape, type_name, std=0.1).view(np.uint8).reshape(n, -1)

    return make_blocks


def weights_of(codes: BlockCodes) -> Any:
    """Return the weights that codes stand for, in float64."""
    weights = (codes.codes.astype(float) - 2 ** (codes.bits - 1)) * codes.scales[..., None]
    return weights if codes.offsets is None else weights + codes.offsets[..., None]


@pytest.mark.parametrize("name", FORMATS)
def test_codes_are_the_exact_weights(name: str) -> None:
    """They are those that the gguf package unpacks, for any bytes with finite scales."""
    quant = QUANTS[name]
    blocks = np.random.default_rng(0).integers(0, 256, (N_ROWS * N_BLOCKS, quant.type_size), np.uint8)
    with np.errstate(all="ignore"):
        read: Any = REFERENCES.get(name, lambda rows: dequantize(rows.reshape(1, -1), GGMLQuantizationType[name]))
        expected = np.asarray(read(blocks), np.float64).reshape(N_ROWS, -1)
        found = weights_of(FORMATS[name](blocks.reshape(N_ROWS, -1))).reshape(N_ROWS, -1)

    finite = np.isfinite(expected) & np.isfinite(found)
    assert finite.mean() > 0.8
    assert np.isfinite(expected[~np.isfinite(found)]).sum() == 0
    if name not in OFFSETS:
        np.testing.assert_array_equal(found[finite], expected[finite])
    else:
        by_block = np.abs(np.where(finite, found, 0)).reshape(N_ROWS, N_BLOCKS, -1).max(-1)
        errors = np.abs(np.where(finite, found - expected, 0)).reshape(N_ROWS, N_BLOCKS, -1).max(-1)
        assert (errors <= 4 * np.finfo(np.float32).eps * by_block).all()


@pytest.mark.parametrize("name", NAMES)
def test_products_are_those_of_the_exact_weights(name: str) -> None:
    check_products(QUANTS[name], QUANTS, block_maker(name), opened)


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_are_exact(name: str) -> None:
    quant = QUANTS[name]
    check_rows(quant, QUANTS, lambda rng, n: rng.integers(0, 256, (n, quant.type_size), np.uint8), opened)
