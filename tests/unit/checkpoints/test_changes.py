"""Every change gives the arrays that GGUF has, can be undone, and says which shapes it gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from llamafw.checkpoints import (
    Add,
    Change,
    Deinterleave,
    Each,
    Inverse,
    NegativeExp,
    Packed,
    Permute,
    Regroup,
    Reshape,
    Split,
    Squeeze,
    Stack,
    Transpose,
)
from llamafw_plugins.conversions.deepseek2 import SplitKeysAndValues
from llamafw_plugins.conversions.gpt_oss import Mxfp4
from llamafw_plugins.conversions.qwen35 import SplitGroups
from llamafw_plugins.quants.ggml import TYPES

Arrays = Sequence[npt.NDArray[Any]]


def column(*numbers: int) -> npt.NDArray[np.float32]:
    """Return a matrix of one column."""
    return np.array(numbers, np.float32)[:, None]


EXAMPLES: dict[str, tuple[Change, Arrays, Arrays]] = {  # change, arrays of a checkpoint, arrays of GGUF
    "permute": (Permute(2), [column(0, 1, 2, 3, 4, 5, 6, 7)], [column(0, 2, 1, 3, 4, 6, 5, 7)]),
    "permute a bias": (Permute(1), [np.array([0, 1, 2, 3])], [np.array([0, 2, 1, 3])]),
    "add": (Add(), [column(0, -1)], [column(1, 0)]),
    "negative exp": (NegativeExp(), [column(0)], [column(-1)]),
    "transpose": (Transpose(), [column(0, 1), np.arange(3)], [column(0, 1).T, np.arange(3)]),
    "reshape": (Reshape((-1, 1), (-1,)), [np.arange(2)], [np.array([[0], [1]])]),
    "squeeze": (Squeeze(), [np.zeros((3, 1, 4))], [np.zeros((3, 4))]),
    "regroup": (Regroup(2, 3), [column(0, 1, 2, 10, 11, 12)], [column(0, 10, 1, 11, 2, 12)]),
    "regroup columns": (Regroup(2, 2, axis=1), [column(0, 1, 2, 3).T], [column(0, 2, 1, 3).T]),
    "regroup the rest": (Regroup(2, 2, start=1), [column(9, 0, 1, 2, 3)], [column(9, 0, 2, 1, 3)]),
    "split": (Split((1, 2)), [column(0, 1, 2)], [column(0), column(1, 2)]),
    "split equally": (Split(2, axis=1), [column(0, 1).T], [column(0), column(1)]),
    "join": (Inverse(Split((1, 2))), [column(0), column(1, 2)], [column(0, 1, 2)]),
    "deinterleave": (Deinterleave(2, axis=0), [column(0, 10, 1, 11)], [column(0, 1), column(10, 11)]),
    "stack": (Stack(), [column(0, 1), column(2, 3)], [np.array([[[0], [1]], [[2], [3]]])]),
    "each": (Each(Add(), None), [column(0), column(5)], [column(1), column(5)]),
    "keys and values": (
        SplitKeysAndValues(1, 2, 1),
        [np.array([[0, 1], [2, 3], [4, 5]])],
        [np.array([[[0, 2], [1, 3]]]), np.array([[[4, 5]]])],
    ),
    "groups": (
        SplitGroups(2, (1, 1, 1, 1)),
        [column(0, 1, 2, 3, 10, 11, 12, 13)],
        [column(0, 10, 1, 11, 2, 12), column(3, 13)],
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_change_gives_what_gguf_has(name: str) -> None:
    change, original, expected = EXAMPLES[name]
    found = change.forward(original)
    assert len(found) == len(expected)
    for array, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize("name", EXAMPLES)
def test_change_is_undone(name: str) -> None:
    change, original, gguf = EXAMPLES[name]
    found = change.backward(gguf)
    assert len(found) == len(original)
    for array, other in zip(found, original, strict=True):
        np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize("name", EXAMPLES)
def test_change_describes_its_result(name: str) -> None:
    change, original, _ = EXAMPLES[name]
    empty = [np.broadcast_to(np.zeros((), array.dtype), array.shape) for array in original]
    described = [(array.shape, array.dtype) for array in change.describe(empty)]
    assert described == [(array.shape, array.dtype) for array in change.forward(original)]


def test_numbers_are_added_in_float32() -> None:
    (found,) = Add().forward([np.array([2**-9], ml_dtypes.bfloat16)])
    assert found.dtype == np.float32
    assert found[0] == 1 + 2**-9  # which bfloat16 cannot represent


@pytest.mark.parametrize(
    ("change", "shapes", "message"),
    [
        (Permute(3), [(8, 2)], "cannot reshape"),
        (Split((1, 2)), [(4, 1)], "axis 0 has the size 4, not 3"),
        (Split(3), [(4, 1)], "4 cannot be divided into 3 equal parts"),
        (Deinterleave(2, axis=0), [(3, 1)], "axis 0 has the size 3, not a multiple of 2"),
        (Stack(), [(2, 2), (2, 3)], "shapes differ"),
        (Inverse(Split((1, 1))), [(1, 2), (1, 3)], "cannot be joined"),
        (Squeeze(), [(3, 2, 4)], "cannot select an axis"),
        (Mxfp4(1), [(1, 2, 1, 8), (1, 2, 1)], "MXFP4 blocks of shape"),
        (Mxfp4(1), [(1, 2, 1, 16), (1, 3, 1)], "MXFP4 blocks of shape"),
    ],
)
def test_shapes_that_do_not_fit_are_value_errors(change: Change, shapes: list[tuple[int, ...]], message: str) -> None:
    empty = [np.broadcast_to(np.zeros((), np.uint8), shape) for shape in shapes]
    with pytest.raises(ValueError, match=message):
        change.describe(empty)


def test_mxfp4_blocks_have_the_numbers_of_the_checkpoint() -> None:
    """The checkpoint's numbers are computed as in transformers' ``convert_moe_packed_tensors``."""
    rng = np.random.default_rng(7)
    blocks = rng.integers(0, 256, (2, 6, 3, 16), np.uint8)
    scales = rng.integers(120, 130, (2, 6, 3), np.uint8)
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    expected = np.empty((2, 6, 3, 32))
    expected[..., ::2], expected[..., 1::2] = values[blocks & 15], values[blocks >> 4]
    expected = np.ldexp(expected, scales[..., None].astype(int) - 127).reshape(2, 6, 96)

    quant = next(one for one in TYPES if one.name == "MXFP4")
    packed = Mxfp4(2).forward([blocks, scales])
    for i, one in enumerate(packed):
        assert isinstance(one, Packed)
        np.testing.assert_array_equal(quant.dequantize(one.blocks.reshape(-1), one.shape), expected[:, i::2])
    restored = Mxfp4(2).backward(packed)
    np.testing.assert_array_equal(restored[0], blocks)
    np.testing.assert_array_equal(restored[1], scales)
