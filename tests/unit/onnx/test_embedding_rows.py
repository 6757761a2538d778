"""Rows of embeddings are those of the file, whichever of them are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import graph as g
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_backends.onnx import embedding_rows
from llamafw_backends.onnx.embedding_rows import EmbeddingRows
from llamafw_backends.onnx.tensors import Tensors
from support.onnx_nodes import open_context


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, g.Weight, list[int]]:
    """Return the tensors of a model, its embeddings, and the numbers of rows that were read of them."""
    context = open_context(write_tiny_gguf(tmp_path / "model.gguf", types="Q8_0"))
    weight = next(value.weight for value in context.graph if isinstance(value, g.EmbeddingLookup))
    tensors, counts, read = Tensors(context.model, context.quants), [], Tensors.rows

    def count(self: Any, weight: g.Weight, ids: Any) -> Any:
        counts.append(len(ids))
        return read(self, weight, ids)

    monkeypatch.setattr(Tensors, "rows", count)
    return tensors, weight, counts


@pytest.mark.parametrize("n_kept", [1, 2, 7, 64, 10_000])
def test_rows_are_those_of_the_file(counted: Any, n_kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, weight, _ = counted
    monkeypatch.setattr(embedding_rows, "CACHE_BYTES", 4 * weight.shape[1] * n_kept)
    whole, rows, draw = tensors.floats(weight), EmbeddingRows(tensors, weight), np.random.default_rng(0)
    for _ in range(60):
        ids = draw.integers(0, draw.choice([5, 40, 300]), draw.integers(1, 50))
        np.testing.assert_array_equal(rows[ids], whole[ids])


def test_rows_are_read_once(counted: Any) -> None:
    tensors, weight, counts = counted
    rows = EmbeddingRows(tensors, weight)
    for ids in ([3, 4, 3], [4, 3, 9], [9], [3, 4]):
        assert rows[np.array(ids)].shape == (len(ids), weight.shape[1])
    assert counts == [2, 1]
