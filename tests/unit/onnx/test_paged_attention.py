"""Caches in blocks: PagedAttention, here as standard operators, and steps that are captured on GPUs."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llamafw.testing.graphs import attend, llama
from llamafw.testing.tiny import write_tiny_gguf
from support.onnx_nodes import F32, kinds, make_lowering, open_context, worst_error
from support.paged_attention import emulate


@pytest.fixture(params=[True, False], ids=["captured", "not captured"])
def paged(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch, captures=request.param)


def with_attention(**options: Any) -> Any:
    return partial(llama, attend=lambda parts, _: attend(*parts, **options))


@pytest.mark.usefixtures("paged")
@pytest.mark.parametrize("options", [{}, {"window": 7}, {"softcap": 5.0}, {"temperature": (0.5, 8)}], ids=str)
def test_ragged_batches_are_close_to_float64(tmp_path: Path, options: dict[str, Any]) -> None:
    context = open_context(write_tiny_gguf(tmp_path / "model.gguf"), with_attention(**options), **F32)
    nodes = Counter(kinds(make_lowering(context)))
    assert nodes["PagedAttention"] == 2
    assert nodes["GroupQueryAttention"] == nodes["Softmax"] == nodes["ScatterND"] == 0
    assert worst_error(context) < 1e-5
