"""The suite for tensor types names the rule that a tensor type breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llamafw import ModelError
from llamafw.plugins import Plugins
from llamafw.testing.conformance import QuantConformance
from llamafw.testing.conformance.base import assert_identical
from llamafw_backends.custom_quant import pq2_0, types
from llamafw_backends.numba_cpu.kernel_api import FLOATS, Record, Value, constant, store_f32
from llamafw_plugins.quants.ggml import GgmlType
from support.conformance import assert_fails, suite

Dequantize = Callable[[Any, Any], Any]


class BrokenF16(GgmlType):
    """F16 with a fault in `dequantize`."""

    fault: Callable[[Dequantize, Any, Any], Any]

    def dequantize(self, data: Any, shape: Any) -> Any:
        return self.fault(super().dequantize, data, shape)


def quant(fault: Callable[[Dequantize, Any, Any], Any], type_id: int = 1) -> Any:
    cls = type("Broken", (BrokenF16,), {"fault": staticmethod(fault), "__slots__": ()})
    return suite(QuantConformance, cls("F16", type_id, 1, 2), name="F16")


def accept_any_size(dequantize: Dequantize, data: Any, shape: Any) -> Any:
    try:
        return dequantize(data, shape)
    except ModelError:
        return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("made", "test", "message"),
    [
        (
            quant(lambda dequantize, data, shape: dequantize(data, shape) * np.float32(1.001)),
            "weights_are_exact",
            "numbers differ",
        ),
        (
            quant(lambda dequantize, data, shape: dequantize(data, shape).reshape(-1)),
            "any_shape_of_whole_blocks_works",
            r"the shape is \(6,\), expected \(6, 1\)",
        ),
        (
            quant(lambda dequantize, data, shape: dequantize(data, shape) + dequantize(data, shape).max()),
            "blocks_are_independent",
            "block 0 alone and among others",
        ),
        (
            quant(lambda dequantize, data, shape: dequantize(data, shape).astype(np.float16)),
            "any_shape_of_whole_blocks_works",
            "dtype float16",
        ),
        (quant(accept_any_size), "data_of_the_wrong_size_is_a_model_error", "are accepted"),
        (
            quant(lambda dequantize, data, shape: dequantize(data, shape), type_id=3),
            "id_and_sizes_do_not_clash_with_ggml",
            "type_id 3 belongs to ggml's Q4_1",
        ),
    ],
)
def test_broken_rule_is_reported(made: Any, test: str, message: str) -> None:
    assert_fails(getattr(made, f"test_{test}"), message)


def test_arrays_are_compared_bit_for_bit() -> None:
    one, other = np.array([1.0, 2.0]), np.array([1.0, 3.0])
    assert_identical(one, one.copy(), "x")
    assert_fails(assert_identical, "x: 1 of 2 numbers differ, by up to 1", one, other, "x")
    small, large = np.array([1], np.uint8), np.array([2], np.uint8)
    assert_fails(assert_identical, "x: 1 of 1 numbers differ, by up to 1$", small, large, "x")
    with_nan, infinite = np.array([np.nan, 2.0]), np.array([np.nan, np.inf])
    assert_identical(with_nan, with_nan.copy(), "x")
    assert_fails(assert_identical, "x: 1 of 2 numbers differ$", with_nan, infinite, "x")
    assert_fails(assert_identical, "x: the shape is", np.zeros(2), np.zeros(3), "x")


class WrongProducts(pq2_0.PQ2_0):
    """A format whose scales are a little too large."""

    name = "WRONG_PRODUCTS"

    def scale(self, record: Record) -> list[Value]:
        (scale,) = super().scale(record)
        return [record.b.fmul(scale, constant(FLOATS, 1.01))]


class WrongRows(pq2_0.PQ2_0):
    """A format that unpacks zeros."""

    name = "WRONG_ROWS"

    @staticmethod
    def unpack(source: int, out: int) -> None:
        for i in range(128):
            store_f32(np.float32(0), out + 4 * i)


@pytest.mark.parametrize(
    ("kernel", "test", "message"),
    [
        (WrongProducts, "backends_multiply_with_exact_weights", "numba with LLAMAFW_ISA=.*: products .* differ from"),
        (WrongRows, "backends_read_exact_weights", "numba .*: .* numbers in rows of WRONG_ROWS are not its weights"),
    ],
)
def test_wrong_kernels_are_reported(kernel: Any, test: str, message: str) -> None:
    members = {"name": kernel.name, "type_id": 1000, "backends": {"numba": kernel}}
    registered = type("Wrong", (types.PQ2_0,), members)()
    registry = Plugins().registry
    registries = {"quant": {"F32": registry("quant")["F32"], kernel.name: registered}, "backend": registry("backend")}
    made = suite(QuantConformance, registered, name=kernel.name, registry=registries.__getitem__)
    assert_fails(getattr(made, f"test_{test}"), message)


def test_types_without_kernels_are_skipped() -> None:
    made = suite(QuantConformance, GgmlType("F16", 1, 1, 2), name="F16")
    with pytest.raises(pytest.skip.Exception, match="nothing for an installed backend"):
        made.test_backends_read_exact_weights()
