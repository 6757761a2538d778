"""Caches in blocks: PagedAttention, here as standard operators, and steps that are captured on GPUs."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import Unavailable
from llamafw.testing.batches import batch
from llamafw.testing.graphs import attend, llama
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_backends.onnx import captured_steps
from llamafw_backends.onnx.backend import OnnxBackend
from llamafw_backends.onnx.block_table import BLOCK, UNUSED, BlockTable
from support.onnx_nodes import F32, TEXTS, evaluate, kinds, make_lowering, open_context, worst_error
from support.paged_attention import emulate


@pytest.fixture(params=[True, False], ids=["captured", "not captured"])
def paged(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch, captures=request.param)


def with_attention(**options: Any) -> Any:
    return partial(llama, attend=lambda parts, _: attend(*parts, **options))


def is_close(actual: Any, expected: Any, largest: Any) -> bool:
    """Return whether logits are those of float64, apart from rounding to float32."""
    return bool(np.abs(np.asarray(actual) - expected).max() < 1e-5 * np.abs(largest).max())


@pytest.mark.usefixtures("paged")
@pytest.mark.parametrize("options", [{}, {"window": 7}, {"softcap": 5.0}, {"temperature": (0.5, 8)}], ids=str)
def test_ragged_batches_are_close_to_float64(tmp_path: Path, options: dict[str, Any]) -> None:
    context = open_context(write_tiny_gguf(tmp_path / "model.gguf"), with_attention(**options), **F32)
    nodes = Counter(kinds(make_lowering(context)))
    assert nodes["PagedAttention"] == 2
    assert nodes["GroupQueryAttention"] == nodes["Softmax"] == nodes["ScatterND"] == 0
    assert worst_error(context) < 1e-5


@pytest.mark.usefixtures("paged")
def test_texts_longer_than_a_block_are_close_to_float64(tmp_path: Path) -> None:
    """A text of several blocks beside others that end and begin again; the tensors grow on the way."""
    n = 2 * BLOCK + 90
    texts = [[(7 * i * i + 3 * i + slot) % 300 for i in range(n)] for slot in range(3)]
    context = open_context(write_tiny_gguf(tmp_path / "model.gguf"), n_ctx=1024, n_ubatch=200, **F32)
    expected = [evaluate(context, text, n_ctx=1024) for text in texts]
    backend, ends = OnnxBackend(context), [0, 0, 0]
    limit = 1e-5 * max(np.abs(array).max() for array in expected)
    steps = [[100, 10, 0], [150, 1, 300], [1, 1, 1], [1, 1, 1], [BLOCK, 0, 200], [1, 40, 1], [1, 1, 1], [90, 0, 1]]
    for i, sizes in enumerate(steps):
        if i == 5:
            ends[2] = backend.truncate(2, 255)
            ends[1] = backend.truncate(1, 0)
        runs = [(slot, ends[slot], texts[slot][ends[slot] : ends[slot] + n]) for slot, n in enumerate(sizes) if n]
        rows = np.split(backend.forward(batch(*runs)), np.cumsum([len(run) for _, _, run in runs])[:-1])
        for (slot, first, run), actual in zip(runs, rows, strict=True):
            assert np.abs(actual - expected[slot][first : first + len(run)]).max() < limit, (i, slot)
            ends[slot] += len(run)
    backend.close()
    assert max(ends) > 2 * BLOCK


@pytest.mark.usefixtures("paged")
def test_slots_are_unchanged_if_memory_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = open_context(write_tiny_gguf(tmp_path / "model.gguf"), n_ctx=1024, n_ubatch=512, n_slots=2, **F32)
    backend, text = OnnxBackend(context), TEXTS[0][:50]
    expected = backend.forward(batch((0, 0, [*text, 7])))[-1].copy()
    backend.truncate(0, 50)
    slots, before = backend._slots, backend._slots.n_bytes

    def fail(*args: object) -> None:
        raise Unavailable("no memory left")

    with monkeypatch.context() as patch:
        patch.setattr(type(slots.device), "zeros", fail)
        with pytest.raises(Unavailable, match=f"KV cache, for {5 * BLOCK} tokens of all slots"):
            backend.forward(batch((1, 0, [i % 300 for i in range(510)]), outputs=[]))
    assert slots.n_bytes == before
    np.testing.assert_allclose(backend.forward(batch((0, 50, [7])))[0], expected, atol=1e-4)
    backend.close()


def test_step_without_memory_for_a_graph_is_computed_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    emulate(monkeypatch)
    backend = OnnxBackend(open_context(write_tiny_gguf(tmp_path / "model.gguf"), **F32))
    assert backend._steps is not None
    expected = backend.forward(batch((0, 0, TEXTS[0][:5])))[-1].copy()

    def fail(*args: object) -> None:
        raise Unavailable("no memory left")

    with monkeypatch.context() as patch:
        patch.setattr(type(backend._device), "zeros", fail)
        row = backend.forward(batch((0, 4, TEXTS[0][4:5])))[0]
    np.testing.assert_allclose(row, expected, atol=1e-4)
    assert not backend._steps._steps
    np.testing.assert_allclose(backend.forward(batch((0, 4, TEXTS[0][4:5])))[0], expected, atol=1e-4)
    assert len(backend._steps._steps) == 1
    assert "without CUDA graphs" not in capsys.readouterr().out
    backend.close()


def test_captured_steps_share_the_memory_of_their_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch)
    backend = OnnxBackend(open_context(write_tiny_gguf(tmp_path / "model.gguf"), n_slots=9, **F32))
    zeros, shapes = type(backend._device).zeros, []

    def recorded(device: Any, shape: Any, dtype: Any) -> Any:
        shapes.append(list(shape))
        return zeros(device, shape, dtype)

    monkeypatch.setattr(type(backend._device), "zeros", recorded)
    for n in (2, 9, 1):
        backend.forward(batch(*((slot, 0, [11]) for slot in range(n))))
    assert shapes == [[12, backend.n_embd], [12, backend.n_vocab]]
    backend.close()


def test_steps_of_any_number_of_slots_are_captured_once_per_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulate(monkeypatch)
    backend = OnnxBackend(open_context(write_tiny_gguf(tmp_path / "model.gguf"), n_slots=9, **F32))
    assert backend._steps is not None
    for slot in range(9):
        backend.forward(batch((slot, 0, TEXTS[0][:4]), outputs=[]))
    alone = backend.forward(batch((3, 4, [11])))[0].copy()
    backend.truncate(3, 4)
    for n in (1, 2, 4, 5, 9):
        rows = backend.forward(batch(*((slot, 4, [11]) for slot in range(n))))
        for slot in range(n):
            np.testing.assert_allclose(rows[slot], alone, atol=1e-4)
            backend.truncate(slot, 4)
    assert [size for size, _ in backend._steps._steps] == [1, 2, 4, 6, 12]
    backend.close()


def test_captured_step_returns_the_wanted_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch)
    context = open_context(write_tiny_gguf(tmp_path / "model.gguf"), **F32)
    backend = OnnxBackend(context)
    runs = [(slot, 0, TEXTS[slot][:3]) for slot in range(3)]
    backend.forward(batch(*runs, outputs=[]))
    step = [(slot, 3, TEXTS[slot][3:4]) for slot in range(3)]
    rows = backend.forward(batch(*step, outputs=[2, 0]))
    for row, slot in zip(rows, (2, 0), strict=True):
        expected = evaluate(context, TEXTS[slot][:4])
        assert is_close(row, expected[3], expected)
    for slot in range(3):
        backend.truncate(slot, 3)
    assert backend.hidden(batch(*step, outputs=[1])).shape == (1, backend.n_embd)
    backend.close()


def test_steps_that_cannot_be_captured_are_computed_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    emulate(monkeypatch, may_fail=True)
    context = open_context(write_tiny_gguf(tmp_path / "model.gguf"), **F32)
    expected, backend = evaluate(context, TEXTS[0][:6]), OnnxBackend(context)
    backend.forward(batch((0, 0, TEXTS[0][:4]), outputs=[]))

    def fail(*args: object) -> None:
        raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")

    with monkeypatch.context() as patch:
        patch.setattr(captured_steps.CapturedSteps, "_add", fail)
        row = backend.forward(batch((0, 4, TEXTS[0][4:5])))[0]
    assert is_close(row, expected[4], expected)
    row = backend.forward(batch((0, 5, TEXTS[0][5:6])))[0]
    assert is_close(row, expected[5], expected)
    assert capsys.readouterr().out.count("without CUDA graphs: CUDA failure 900") == 1
    backend.close()


def test_captured_steps_that_repeat_old_inputs_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    emulate(monkeypatch, may_fail=True)
    context = open_context(write_tiny_gguf(tmp_path / "model.gguf"), **F32)
    expected, backend = evaluate(context, TEXTS[0][:9]), OnnxBackend(context)
    backend.forward(batch((0, 0, TEXTS[0][:4]), outputs=[]))
    assert backend._steps is not None
    backend.forward(batch((1, 0, TEXTS[1][:1]), outputs=[]))  # has no logits to compare
    rows = [backend.forward(batch((0, 4, TEXTS[0][4:5])))[0]]
    (step,) = backend._steps._steps.values()
    assert step.n_runs == 1
    step.inputs.pop("embedding.0")  # as if its kernel read what it read when the graph was captured
    rows += [backend.forward(batch((0, i, TEXTS[0][i : i + 1])))[0] for i in range(5, 9)]
    assert is_close(rows, expected[4:], expected)
    assert capsys.readouterr().out.count("without CUDA graphs: a graph computes other logits") == 1
    backend.close()


def test_blocks_are_given_back() -> None:
    table = BlockTable(3)
    table.add(1)
    assert table.missing({0: 1, 1: BLOCK + 1}) == 3
    table.add(4)
    table.reserve({0: 1, 1: BLOCK + 1})
    taken = set(table.of(0, 1)) | set(table.of(1, BLOCK + 1))
    assert taken == {1, 2, 3}
    assert table.missing({0: BLOCK, 2: 1}) == 1  # slot 0 has a block already
    table.cut(1, BLOCK)
    assert table.missing({2: 1}) == 0
    table.reserve({2: 1})
    rows = table.rows([2, 1, 0], 2)
    assert rows.shape == (3, 2)
    assert (rows[:, 1] == UNUSED).all()
    assert sorted(rows[:, 0].tolist()) == [1, 2, 3]
    table.cut(1, 0)
    assert table.of(1, 5 * BLOCK) == []
