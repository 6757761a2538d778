"""The most likely tokens are selected on the device; here the device is the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from llamafw import RequestError
from llamafw.testing.batches import batch
from llamafw_backends.onnx.providers import choose
from llamafw_backends.onnx.top_logits import CHUNK, TopLogits
from support.onnx_backend import open_backend

N_LOGITS, N_VOCAB = 1000, 990


def select(rows: Any, n: int, n_vocab: int = N_VOCAB) -> tuple[Any, Any]:
    return TopLogits(choose("cpu")).select(ort.OrtValue.ortvalue_from_numpy(rows), n, n_vocab)


@pytest.mark.parametrize("n_vocab", [N_VOCAB, CHUNK, 2 * CHUNK, 2 * CHUNK + 7, 5 * CHUNK - 1])
@pytest.mark.parametrize("n", [1, 40, N_VOCAB])
def test_highest_logits_are_in_descending_order(n: int, n_vocab: int) -> None:
    rows = np.random.default_rng(0).integers(-50, 50, (3, n_vocab + 10)).astype(np.float32)  # with equal ones
    rows[:, n_vocab:] = 99
    rows[1, : n_vocab - 3] = -np.inf
    ids, highest = select(rows, n, n_vocab)
    expected = np.argsort(-rows[:, :n_vocab], axis=1, kind="stable")[:, :n]
    assert (ids.dtype, highest.dtype) == (np.int32, np.float32)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(highest, np.take_along_axis(rows, expected, 1))


def test_rows_with_nan_are_nan() -> None:
    rows = np.zeros((2, N_LOGITS), np.float32)
    rows[1, 7] = np.nan
    _, highest = select(rows, 3)
    assert not highest[0].any()
    assert np.isnan(highest[1]).all()


@pytest.mark.parametrize(("number", "expected"), [(-np.inf, [0, 0, 0]), (np.inf, [np.inf, 0, 0])])
def test_infinite_logits_are_ordered(number: float, expected: list[float]) -> None:
    rows = np.zeros((2, N_LOGITS), np.float32)
    rows[1, 7] = number
    _, highest = select(rows, 3)
    np.testing.assert_array_equal(highest, [[0, 0, 0], expected])


def test_top_logits_of_a_batch_are_those_of_forward(write_model: Any) -> None:
    path: Path = write_model()
    tokens, outputs = list(range(20)), [3, 19, 21]
    parts = [(1, 0, tokens), (0, 0, [5, 6])]
    with open_backend(path, n_slots=2, n_ubatch=8) as backend:
        rows = backend.forward(batch(*parts, outputs=outputs))
        for slot in (0, 1):
            backend.truncate(slot, 0)
        ids, highest = backend._top_logits(batch(*parts, outputs=outputs), 4, backend.n_vocab)
        np.testing.assert_allclose(highest, -np.sort(-rows)[:, :4], atol=1e-5)
        np.testing.assert_allclose(np.take_along_axis(rows, ids, 1), highest, atol=1e-5)
        with pytest.raises(RequestError, match="vocabulary"):
            backend._top_logits(batch((0, 0, [backend.n_vocab])), 4, backend.n_vocab)
