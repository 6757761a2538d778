"""The tensor types of ggml, against the tables and the unpacking of the `gguf` package."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from llamafw import ModelError
from llamafw_plugins.quants.ggml import CHUNK, TYPES
from support.blocks import WRITABLE, random_tensor

QUANTS = {quant.name: quant for quant in TYPES}


def test_the_table_is_that_of_the_gguf_package() -> None:
    table = {quant.name: (quant.type_id, quant.block_size, quant.type_size) for quant in TYPES}
    assert table == {kind.name: (kind.value, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}
    assert len(table) == len(TYPES)


@pytest.mark.parametrize("type_name", WRITABLE)
@pytest.mark.parametrize("shape", [(3, 512), (2, 3, 256), (0, 256), (1, CHUNK + 256)])
def test_unpacks_as_the_gguf_package_does(type_name: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    packed = random_tensor(rng, (max(shape[0], 1), *shape[1:]), type_name)[: shape[0]]
    data = np.ascontiguousarray(packed).view(np.uint8).reshape(-1)
    found = QUANTS[type_name].dequantize(data, shape)
    assert found.dtype == np.float32
    assert found.shape == shape
    if shape[0]:
        wanted = dequantize(packed, GGMLQuantizationType[type_name]).reshape(shape)
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("type_name", "dtype"), [("I8", "<i1"), ("I16", "<i2"), ("I32", "<i4"), ("I64", "<i8"), ("F64", "<f8")]
)
def test_plain_numbers_become_float32(type_name: str, dtype: str) -> None:
    numbers = np.array([[-3, 0, 100]], dtype)
    found = QUANTS[type_name].dequantize(numbers.view(np.uint8).reshape(-1), (1, 3))
    assert found.dtype == np.float32
    assert found.tolist() == [[-3, 0, 100]]


def test_unpacked_weights_are_no_view_of_the_file() -> None:
    data = np.zeros(8, np.uint8)
    weights = QUANTS["F32"].dequantize(data, (2,))
    data[:] = 255
    assert weights.tolist() == [0, 0]


@pytest.mark.parametrize("type_name", ["Q8_1", "Q8_K"])
def test_a_type_that_cannot_be_unpacked_is_named(type_name: str) -> None:
    quant = QUANTS[type_name]
    with pytest.raises(ModelError, match=f"type {type_name} cannot be unpacked"):
        quant.dequantize(np.zeros(quant.type_size, np.uint8), (quant.block_size,))


def test_bytes_that_are_no_such_tensor() -> None:
    with pytest.raises(ModelError, match=r"a Q4_0 tensor of shape \(32,\) cannot have 19 bytes"):
        QUANTS["Q4_0"].dequantize(np.zeros(19, np.uint8), (32,))


def test_registering_imports_nothing_heavy() -> None:
    code = "import sys, llamafw_plugins.quants, llamafw_plugins.architectures; print('gguf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
