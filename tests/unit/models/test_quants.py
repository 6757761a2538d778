"""The tensor types of ggml equal those of the `gguf` package, or independent ones where the package has none."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from llamafw import ModelError
from llamafw.testing.random_tensors import WRITABLE, random_tensor
from llamafw_plugins.quants.ggml import CHUNK, TYPES
from support.quant_references import REFERENCES

QUANTS = {quant.name: quant for quant in TYPES}
UNKNOWN = {"Q2_0": (42, 64, 18)}
"""Types that the `gguf` package does not know: number, weights and bytes of a block."""


def test_table_of_types_equals_the_gguf_package() -> None:
    table = {quant.name: (quant.type_id, quant.block_size, quant.type_size) for quant in TYPES}
    assert table == UNKNOWN | {quant.name: (quant.value, *sizes) for quant, sizes in GGML_QUANT_SIZES.items()}
    assert len(table) == len(TYPES)


@pytest.mark.parametrize("type_name", [name for name in WRITABLE if name not in REFERENCES])
@pytest.mark.parametrize("shape", [(3, 512), (2, 3, 256), (0, 256), (1, CHUNK + 256)])
def test_dequantize_equals_the_gguf_package(type_name: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    packed = random_tensor(rng, (max(shape[0], 1), *shape[1:]), type_name)[: shape[0]]
    data = np.ascontiguousarray(packed).view(np.uint8).reshape(-1)
    weights = QUANTS[type_name].dequantize(data, shape)
    assert weights.dtype == np.float32
    assert weights.shape == shape
    if shape[0]:
        expected = dequantize(packed, GGMLQuantizationType[type_name]).reshape(shape)
        np.testing.assert_array_equal(weights, expected)


@pytest.mark.parametrize("type_name", REFERENCES)
def test_types_that_gguf_cannot_dequantize_equal_their_definition(type_name: str) -> None:
    """All bytes have the same weights as in the reference, infinities and NaN included."""
    quant, rng = QUANTS[type_name], np.random.default_rng(2)
    blocks = rng.integers(0, 256, (500, quant.type_size), np.uint8)
    blocks[:3, :2] = np.array([np.inf, -np.inf, np.nan], "<f2").view(np.uint8).reshape(3, 2)
    weights, expected = quant.dequantize(blocks.reshape(-1), (500, quant.block_size)), REFERENCES[type_name](blocks)
    assert np.isinf(expected).any()
    assert np.isnan(expected).any()
    np.testing.assert_array_equal(weights, expected)


@pytest.mark.parametrize(
    ("type_name", "data", "weights"),
    [
        ("Q1_0", [0b10000001, 0b10], [2, *[-2] * 6, 2, -2, 2, *[-2] * 118]),
        ("Q2_0", [0b11100100, 0b10], [-2, 0, 2, 4, 2, *[-2] * 59]),
    ],
)
def test_first_weight_is_in_the_lowest_bits(type_name: str, data: list[int], weights: list[float]) -> None:
    quant = QUANTS[type_name]
    block = np.zeros(quant.type_size, np.uint8)
    block[:2], block[2 : 2 + len(data)] = np.array([2], "<f2").view(np.uint8), data
    assert quant.dequantize(block, (quant.block_size,)).tolist() == weights


@pytest.mark.parametrize(
    ("type_name", "dtype"), [("I8", "<i1"), ("I16", "<i2"), ("I32", "<i4"), ("I64", "<i8"), ("F64", "<f8")]
)
def test_unquantized_types_become_float32(type_name: str, dtype: str) -> None:
    numbers = np.array([[-3, 0, 100]], dtype)
    weights = QUANTS[type_name].dequantize(numbers.view(np.uint8).reshape(-1), (1, 3))
    assert weights.dtype == np.float32
    assert weights.tolist() == [[-3, 0, 100]]


def test_dequantized_weights_are_a_copy() -> None:
    data = np.zeros(8, np.uint8)
    weights = QUANTS["F32"].dequantize(data, (2,))
    data[:] = 255
    assert weights.tolist() == [0, 0]


@pytest.mark.parametrize("type_name", ["Q8_1", "Q8_K"])
def test_type_that_cannot_be_unpacked_is_refused(type_name: str) -> None:
    quant = QUANTS[type_name]
    with pytest.raises(ModelError, match=f"type {type_name} cannot be unpacked"):
        quant.dequantize(np.zeros(quant.type_size, np.uint8), (quant.block_size,))


def test_wrong_number_of_bytes_is_refused() -> None:
    with pytest.raises(ModelError, match=r"a Q4_0 tensor of shape \(32,\) cannot have 19 bytes"):
        QUANTS["Q4_0"].dequantize(np.zeros(19, np.uint8), (32,))


def test_registration_does_not_import_gguf() -> None:
    code = "import sys, llamafw_plugins.quants, llamafw_plugins.architectures; print('gguf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
