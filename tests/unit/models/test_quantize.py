"""Rounding to ggml's types: equal to the `gguf` package where it can round, and as good as llama.cpp elsewhere."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from llamafw import ModelError, Quantizer
from llamafw_plugins.quants.ggml import CHUNK, TYPES, RoundingType

Floats = npt.NDArray[np.float32]
Blocks = npt.NDArray[np.uint8]

QUANTIZERS: dict[str, Quantizer] = {one.name: one for one in TYPES if isinstance(one, RoundingType)}
BY_GGUF = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4")
SEARCHED = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")


def gaussian(n_rows: int = 512, n_columns: int = 1024, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(n_rows, n_columns)).astype(np.float32)


def heavy_tailed() -> Floats:
    return (np.random.default_rng(1).standard_t(4, size=(512, 1024)) * 0.02).astype(np.float32)


def unpacked(type_name: str, blocks: Blocks) -> Floats:
    weights: Floats = dequantize(blocks, GGMLQuantizationType[type_name])
    return weights


def rms_error(type_name: str, weights: Floats, importance: Floats | None = None) -> float:
    """Return the root of the mean squared error, relative to the weights; columns count by their importance."""
    factors = np.ones(weights.shape[1]) if importance is None else importance.astype(np.float64)
    error = unpacked(type_name, QUANTIZERS[type_name].quantize(weights, importance)).astype(np.float64) - weights
    return float(np.sqrt((error**2 * factors).sum() / (weights.astype(np.float64) ** 2 * factors).sum()))


def test_types_that_weights_can_be_rounded_to_are_known() -> None:
    assert set(QUANTIZERS) == {*BY_GGUF, *SEARCHED}


@pytest.mark.parametrize("type_name", BY_GGUF)
def test_result_equals_the_gguf_package(type_name: str) -> None:
    weights = np.concatenate([gaussian(40), heavy_tailed()[:40], np.zeros((1, 1024), np.float32)])
    weights[3], weights[4, ::2] = -0.25, 0  # a constant row, and one with zeros
    expected = quantize(weights, GGMLQuantizationType[type_name]).view(np.uint8)
    np.testing.assert_array_equal(QUANTIZERS[type_name].quantize(weights), expected)


# the errors of llama.cpp's quantize_q2_K … for the same weights, without an importance matrix
@pytest.mark.parametrize(
    ("type_name", "of_gaussian", "of_heavy_tailed"),
    [
        ("Q2_K", 0.29677, 0.34275),
        ("Q3_K", 0.15084, 0.18324),
        ("Q4_K", 0.07135, 0.08651),
        ("Q5_K", 0.03610, 0.04377),
        ("Q6_K", 0.01774, 0.02269),
        ("IQ4_NL", 0.07612, 0.09300),
        ("IQ4_XS", 0.07671, 0.09395),
    ],
)
def test_error_is_not_above_that_of_llama_cpp(type_name: str, of_gaussian: float, of_heavy_tailed: float) -> None:
    assert rms_error(type_name, gaussian()) <= 1.001 * of_gaussian
    assert rms_error(type_name, heavy_tailed()) <= 1.002 * of_heavy_tailed


# the errors of llama-quantize (llama.cpp b11434) for the same weights with an importance matrix
@pytest.mark.parametrize(
    ("type_name", "of_gaussian", "of_heavy_tailed"),
    [
        ("Q4_0", 0.07559, 0.10469),
        ("Q4_1", 0.06118, 0.07402),
        ("Q5_0", 0.03757, 0.05294),
        ("Q5_1", 0.02968, 0.03593),
        ("Q2_K", 0.22169, 0.25067),
        ("Q3_K", 0.12935, 0.15949),
        ("Q4_K", 0.06228, 0.07619),
        ("Q5_K", 0.03204, 0.03963),
        ("Q6_K", 0.01562, 0.02048),
        ("IQ4_NL", 0.06829, 0.08375),
        ("IQ4_XS", 0.06912, 0.08524),
    ],
)
def test_error_with_importance_is_not_above_that_of_llama_cpp(
    type_name: str, of_gaussian: float, of_heavy_tailed: float
) -> None:
    importance = np.random.default_rng(3).gamma(0.5, size=1024).astype(np.float32) + np.float32(1e-4)
    assert rms_error(type_name, gaussian(), importance) <= 1.001 * of_gaussian
    assert rms_error(type_name, heavy_tailed(), importance) <= 1.004 * of_heavy_tailed


@pytest.mark.parametrize(
    ("type_name", "other"),
    [
        ("Q2_K", "TQ2_0"),
        ("Q3_K", "Q2_K"),
        ("IQ4_NL", "Q4_0"),
        ("IQ4_XS", "Q4_0"),
        ("Q4_K", "Q4_0"),
        ("Q4_K", "Q4_1"),
        ("Q5_K", "Q5_0"),
        ("Q5_K", "Q5_1"),
        ("Q6_K", "Q5_1"),
    ],
)
def test_error_is_below_that_of_a_simpler_type_of_its_size(type_name: str, other: str) -> None:
    for weights in (gaussian(), heavy_tailed()):
        assert rms_error(type_name, weights) < rms_error(other, weights)


FIELDS: dict[str, tuple[int, list[tuple[int, int, int, int]]]] = {
    "Q2_K": (4, [(16, 80, 0, 2)]),
    "Q3_K": (8, [(32, 96, 0, 2), (0, 32, 2, 1)]),
    "Q4_K": (16, [(16, 144, 0, 4)]),
    "Q5_K": (32, [(48, 176, 0, 4), (16, 48, 4, 1)]),
    "Q6_K": (64, [(0, 128, 0, 4), (128, 192, 4, 2)]),
    "IQ4_NL": (16, [(2, 18, 0, 4)]),
    "IQ4_XS": (16, [(8, 136, 0, 4)]),
    "Q4_0": (16, [(2, 18, 0, 4)]),
    "Q4_1": (16, [(4, 20, 0, 4)]),
    "Q5_0": (32, [(6, 22, 0, 4), (2, 6, 4, 1)]),
    "Q5_1": (32, [(8, 24, 0, 4), (4, 8, 4, 1)]),
}
"""The number of codes, and a block's fields: first byte, last byte + 1, lowest bit and number of bits of a code."""


@pytest.mark.parametrize("type_name", FIELDS)
def test_each_weight_has_the_nearest_code(type_name: str) -> None:
    """With the scales that a block has, no other code is nearer to a weight."""
    quant, weights = QUANTIZERS[type_name], np.concatenate([gaussian(8), heavy_tailed()[:8]])
    importance = np.random.default_rng(3).gamma(0.5, size=1024).astype(np.float32)
    blocks = quant.quantize(weights, importance).reshape(-1, quant.type_size)
    expected = weights.reshape(-1, quant.block_size)
    errors = np.abs(unpacked(type_name, blocks) - expected)

    n_codes, fields = FIELDS[type_name]
    for code in range(n_codes):
        others = blocks.copy()
        for first, last, low, n_bits in fields:  # all weights get the same code
            bits = code >> low & 2**n_bits - 1
            others[:, first:last] = sum(bits << shift for shift in range(0, 8, n_bits))
        assert (errors <= np.abs(unpacked(type_name, others) - expected) * 1.0001 + 1e-6).all()


@pytest.mark.parametrize("type_name", QUANTIZERS)
def test_blocks_do_not_depend_on_each_other(type_name: str) -> None:
    quant, weights = QUANTIZERS[type_name], gaussian(CHUNK // 512 + 3, 512)
    whole = quant.quantize(weights)
    np.testing.assert_array_equal(quant.quantize(weights[-4:]), whole[-4:])
    size = quant.block_size
    single = quant.quantize(np.ascontiguousarray(weights[7:8, :size]))
    np.testing.assert_array_equal(single[0], whole[7, : quant.type_size])


@pytest.mark.parametrize("type_name", QUANTIZERS)
def test_extreme_blocks_become_finite_weights(type_name: str) -> None:
    rows = np.zeros((9, 512), np.float32)
    rows[1], rows[2], rows[3], rows[4, 77] = 3, -3, np.linspace(5, 6, 512), 1
    rows[5], rows[6, ::2] = np.linspace(-2, -1, 512), 1e-30
    rows[7], rows[8] = 1e-20, np.linspace(-20_000, 20_000, 512)
    quant = QUANTIZERS[type_name]
    weights = quant.dequantize(quant.quantize(rows).reshape(-1), rows.shape)
    assert np.isfinite(weights).all()
    assert not weights[0].any()
    if not type_name.startswith("TQ"):  # which have no number between 0 and the largest weight
        scale = np.abs(rows).max(1, keepdims=True)
        assert (np.abs(weights - rows) <= 0.35 * scale + 1e-7).all()


@pytest.mark.parametrize("type_name", [*SEARCHED, "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_important_columns_have_smaller_errors(type_name: str) -> None:
    weights, importance = heavy_tailed(), np.ones(1024, np.float32)
    importance[::8] = 100
    assert rms_error(type_name, weights, importance) < rms_error(type_name, weights)
    quant = QUANTIZERS[type_name]
    plain, weighted = (
        unpacked(type_name, quant.quantize(weights, one))[:, ::8] - weights[:, ::8] for one in (None, importance)
    )
    assert np.square(weighted).mean() < 0.95 * np.square(plain).mean()


@pytest.mark.parametrize("type_name", [*SEARCHED, "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_one_column_that_matters_most_is_kept(type_name: str) -> None:
    """Some columns of real models matter a million times more than others."""
    weights, importance = heavy_tailed(), np.ones(1024, np.float32)
    importance[300] = 1e6
    plain = unpacked(type_name, QUANTIZERS[type_name].quantize(weights))[:, 300] - weights[:, 300]
    found = unpacked(type_name, QUANTIZERS[type_name].quantize(weights, importance)) - weights
    assert np.square(found[:, 300]).mean() < np.square(plain).mean() / 4
    assert np.square(found).mean() < np.square(weights).mean() / 4


@pytest.mark.parametrize("type_name", SEARCHED)
def test_columns_without_importance_are_rounded_too(type_name: str) -> None:
    quant, weights = QUANTIZERS[type_name], gaussian(16)
    none = quant.quantize(weights, np.zeros(1024, np.float32))
    np.testing.assert_array_equal(none, quant.quantize(weights))
    importance = np.ones(1024, np.float32)
    importance[:512] = 0  # whole blocks
    error = np.abs(unpacked(type_name, quant.quantize(weights, importance)) - weights)
    assert error[:, :512].mean() < 1.1 * error[:, 512:].mean()


@pytest.mark.parametrize("type_name", ["F16", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4"])
def test_types_without_a_search_do_not_depend_on_importance(type_name: str) -> None:
    quant, weights = QUANTIZERS[type_name], gaussian(4)
    np.testing.assert_array_equal(quant.quantize(weights, np.arange(1024, dtype=np.float32)), quant.quantize(weights))


@pytest.mark.parametrize("shape", [(2, 100), (256,), (1, 2, 256)])
def test_rows_of_incomplete_blocks_are_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="cannot be rounded to Q4_K"):
        QUANTIZERS["Q4_K"].quantize(np.zeros(shape, np.float32))


def test_importance_of_another_shape_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"importance of shape \(255,\) does not fit"):
        QUANTIZERS["Q4_K"].quantize(np.zeros((2, 256), np.float32), np.ones(255, np.float32))
