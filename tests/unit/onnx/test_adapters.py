"""Tokens with adapters in one batch have the logits of merged weights with ONNX Runtime, too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from checkpoints import all_checkpoints, write
from llamafw import LlamafwError, ModelError, RequestError
from llamafw.testing.batches import batch
from llamafw_backends.onnx import backend as onnx_backend
from llamafw_backends.onnx import model_sessions
from support.adapters import NAMES, OPTIONS, TOKENS, TOLERANCE, adapted, expected
from support.numba_backend import make_context
from support.onnx_backend import open_backend

CHECKPOINTS = {one.name: one for one in all_checkpoints()}


@pytest.mark.parametrize("name", NAMES)
def test_tokens_have_the_adapters_of_their_slot(name: str, tmp_path: Path) -> None:
    path = write(CHECKPOINTS[name], tmp_path / "model.gguf")
    with_adapters, scales = adapted(make_context(path, **OPTIONS), tmp_path)
    with open_backend(path, **OPTIONS) as backend:
        run = backend.hidden if with_adapters.graph.logits is None else backend.forward
        alone = run(batch((0, 0, TOKENS))).copy()
        backend.truncate(0, 0)
        backend.set_adapters(with_adapters)
        rows = run(replace(batch(*((slot, 0, TOKENS) for slot in range(3))), scales=np.repeat(scales, len(TOKENS), 0)))
        parts = rows.reshape(3, len(TOKENS), -1)
        for slot in range(3):
            wanted = alone if slot == 0 else expected(with_adapters, scales[slot])
            assert np.abs(parts[slot] - wanted).max() < TOLERANCE * np.abs(wanted).max()
        for slot in range(3):
            backend.truncate(slot, 0)
        again = run(batch((0, 0, TOKENS)))  # without scales
        assert np.abs(again - alone).max() < TOLERANCE * np.abs(alone).max()


def test_failed_change_leaves_the_adapters_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(CHECKPOINTS["llama"], tmp_path / "model.gguf")
    with_adapters, scales = adapted(make_context(path, **OPTIONS), tmp_path)
    batch_with_scales = replace(batch((0, 0, TOKENS)), scales=np.repeat(scales[1:2], len(TOKENS), 0))
    with open_backend(path, **OPTIONS) as backend:
        backend.set_adapters(with_adapters)
        before = backend.forward(batch_with_scales).copy()
        original = model_sessions.open_model

        def fail_once(*args: object, **options: object) -> object:
            monkeypatch.setattr(onnx_backend, "open_model", original)
            raise LlamafwError("not enough memory")

        monkeypatch.setattr(onnx_backend, "open_model", fail_once)
        with pytest.raises(LlamafwError, match="not enough memory"):
            backend.set_adapters(None)
        backend.truncate(0, 0)
        np.testing.assert_array_equal(backend.forward(batch_with_scales), before)


def test_other_states_are_refused(tmp_path: Path) -> None:
    path = write(CHECKPOINTS["llama"], tmp_path / "model.gguf")
    other = make_context(write(CHECKPOINTS["qwen3"], tmp_path / "other.gguf"), **OPTIONS)
    with open_backend(path, **OPTIONS) as backend:
        with pytest.raises(ModelError, match="slots would keep other tensors"):
            backend.set_adapters(other)
        backend.forward(batch((0, 0, TOKENS)))


def test_scales_without_adapters_are_refused(tmp_path: Path) -> None:
    with open_backend(write(CHECKPOINTS["llama"], tmp_path / "model.gguf"), **OPTIONS) as backend:
        scaled = replace(batch((0, 0, TOKENS[:2])), scales=np.zeros((2, 16), np.float32))
        with pytest.raises(RequestError, match="scales of shape"):
            backend.forward(scaled)
