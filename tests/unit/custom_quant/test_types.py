"""The ternary types are read as others read them, and multiplied with their exact weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from llamafw import Bytes
from llamafw.testing.conformance import QuantConformance
from llamafw_backends.custom_quant.types import PQ2_0, PTQ1_0
from support import ternary


def transplant_pq2_0(blocks: Bytes) -> Any:
    """Return the weights of PQ2_0 blocks, read by the `gguf` package as a part of TQ2_0 blocks."""
    other = np.zeros((len(blocks), 66), np.uint8)
    other[:, :32], other[:, 64:] = blocks[:, 2:], blocks[:, :2]
    weights = dequantize(other, GGMLQuantizationType.TQ2_0)[:, :128]
    return weights.reshape(-1, 4, 32).transpose(0, 2, 1).reshape(-1, 128)


def transplant_ptq1_0(blocks: Bytes) -> Any:
    """Return the weights of PTQ1_0 blocks, read by the `gguf` package as parts of TQ1_0 blocks."""

    def read(first: int, parts: Bytes) -> Any:
        other = np.zeros((len(blocks), 54), np.uint8)
        other[:, first : first + parts.shape[1]], other[:, 52:] = parts, blocks[:, 26:]
        return dequantize(other, GGMLQuantizationType.TQ1_0)

    first = read(32, blocks[:, :16])[:, 160:240]
    second = read(32, blocks[:, 16:24])[:, 160:240].reshape(-1, 5, 16)[:, :, :8].reshape(-1, 40)
    last = read(48, blocks[:, 24:26])[:, 240:].reshape(-1, 4, 4)[:, :, :2].reshape(-1, 8)
    return np.concatenate([first, second, last], axis=1)


class TestPQ2_0(QuantConformance):
    name = "PQ2_0"

    def reference(self, blocks: Bytes) -> Any:
        return transplant_pq2_0(blocks)


class TestPTQ1_0(QuantConformance):
    name = "PTQ1_0"

    def reference(self, blocks: Bytes) -> Any:
        return transplant_ptq1_0(blocks)


def test_digits_are_those_of_the_definition() -> None:
    """Digit n of a byte is ``floor(243 · byte / 256) div 3^(4 − n) mod 3``, also of bytes that no writer makes."""
    blocks = np.zeros((256, 28), np.uint8)
    blocks[:, :26] = np.arange(256)[:, None]
    blocks[:, 26:] = np.array([1.0], "<f2").view(np.uint8)
    weights = PTQ1_0().dequantize(blocks.reshape(-1), (256, 128))
    for byte in range(256):
        for column in range(128):
            _, n = ternary.digit_of(column)
            assert weights[byte, column] == byte * 243 // 256 // 3 ** (4 - n) % 3 - 1


@pytest.mark.parametrize(
    ("quant", "pack", "n_codes"), [(PQ2_0(), ternary.pack_pq2_0, 4), (PTQ1_0(), ternary.pack_ptq1_0, 3)]
)
def test_written_blocks_are_read(quant: Any, pack: Any, n_codes: int) -> None:
    codes, scales = ternary.random_codes(np.random.default_rng(0), 50, n_codes)
    blocks = pack(codes, scales)
    assert blocks.shape == (50, quant.type_size)
    expected = (codes.astype(np.float32) - 1) * scales[:, None].astype(np.float32)
    np.testing.assert_array_equal(quant.dequantize(blocks.reshape(-1), (50, 128)), expected)


def test_both_types_hold_the_same_weights() -> None:
    codes, scales = ternary.random_codes(np.random.default_rng(1), 20, 3)
    one, other = ternary.pack_pq2_0(codes, scales), ternary.pack_ptq1_0(codes, scales)
    np.testing.assert_array_equal(
        PQ2_0().dequantize(one.reshape(-1), codes.shape), PTQ1_0().dequantize(other.reshape(-1), codes.shape)
    )
