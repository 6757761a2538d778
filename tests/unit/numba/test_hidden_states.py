"""Logits and hidden states of one batch, and graphs that get hidden states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import golden_prediction, write
from llamafw import BackendContext, Batch, RequestError
from llamafw_backends.numba_cpu.backend import NumbaBackend
from llamafw_backends.onnx.backend import OnnxBackend
from support.numba_backend import make_context
from support.predicting_models import NAMES, find

BACKENDS: dict[str, Any] = {"numba": NumbaBackend, "onnx": OnnxBackend}
TOKENS = np.array([(7 * i * i + 3 * i) % 60 for i in range(40)], np.int32)


@pytest.fixture(params=NAMES)
def context(request: pytest.FixtureRequest, tmp_path: Path) -> BackendContext:
    """A tiny model with a block for multi-token prediction."""
    path = write(find(request.param), tmp_path / "model.gguf")
    options: dict[str, Any] = {"n_ctx": 64, "n_batch": 64, "n_ubatch": 16, "cache_type_k": "f32", "cache_type_v": "f32"}
    return replace(make_context(path, **options), keeps_hidden=True)


@contextmanager
def opened(kind: str, context: BackendContext) -> Iterator[Any]:
    with closing(BACKENDS[kind](context)) as backend:
        yield backend


def batch(tokens: Any, slot: int = 0, first: int = 0, outputs: tuple[int, ...] = (), **fields: Any) -> Batch:
    positions = np.arange(first, first + len(tokens), dtype=np.int32)
    return Batch(tokens, positions, np.full(len(tokens), slot, np.int32), np.array(outputs, np.int32), **fields)


def two_slots(outputs: tuple[int, ...]) -> Batch:
    parts = [batch(TOKENS[:23]), batch(TOKENS[5:22], slot=1)]
    tokens, positions, slots = (
        np.concatenate([getattr(part, name) for part in parts]).astype(np.int32)
        for name in ("tokens", "positions", "slots")
    )
    return Batch(tokens, positions, slots, np.array(outputs, np.int32))


@pytest.mark.parametrize("kind", BACKENDS)
def test_both_results_are_those_that_are_computed_alone(kind: str, context: BackendContext) -> None:
    every, some = tuple(range(40)), (2, 22, 30, 39)
    with opened(kind, context) as backend:
        expected_logits = backend.forward(two_slots(some)).copy()
        for slot in (0, 1):
            backend.truncate(slot, 0)
        expected_hidden = backend.hidden(two_slots(every)).copy()
        for outputs in (some, ()):
            for slot in (0, 1):
                backend.truncate(slot, 0)
            logits, hidden = backend.forward_with_hidden(two_slots(outputs))
            assert logits.shape == (len(outputs), backend.n_vocab)
            if backend.exact:
                np.testing.assert_array_equal(hidden, expected_hidden)
                np.testing.assert_array_equal(logits, expected_logits[: len(outputs)])
            np.testing.assert_allclose(hidden, expected_hidden, atol=1e-3)
            np.testing.assert_allclose(logits, expected_logits[: len(outputs)], atol=1e-3)

        one, first = backend.forward_with_hidden(batch(TOKENS[23:24], first=23, outputs=(0,)))
        assert one.shape == (1, backend.n_vocab)
        assert first.shape == (1, backend.n_embd)


@pytest.mark.parametrize("kind", BACKENDS)
def test_block_predicts_what_another_implementation_does(
    kind: str, context: BackendContext, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["context"]
    assert context.graph.prediction is not None
    text = golden_prediction(name)[-1]
    tokens, n = text.tokens.astype(np.int32), len(text.tokens)
    with opened(kind, context) as backend:
        _, hidden = backend.forward_with_hidden(batch(tokens))
        hidden = hidden.copy()
        with opened(kind, replace(context, graph=context.graph.prediction, beside=backend)) as block:
            outputs = tuple(range(n - 1 - len(text.rows), n - 1))
            logits = block.forward(batch(tokens[1:], outputs=outputs, hidden=hidden[:-1]))
            np.testing.assert_allclose(logits, text.rows, rtol=0, atol=2e-3)


@pytest.mark.parametrize("kind", BACKENDS)
def test_wrong_hidden_states_are_refused(kind: str, context: BackendContext) -> None:
    assert context.graph.prediction is not None
    tokens, rows = TOKENS[:3], np.zeros((3, 64), np.float32)
    with opened(kind, replace(context, graph=context.graph.prediction)) as block:
        for hidden in (None, rows[:2], rows[:, :63]):
            with pytest.raises(RequestError, match="hidden states of shape .* do not fit 3 tokens and 64 numbers"):
                block.forward(batch(tokens, hidden=hidden))
        block.forward(batch(tokens, hidden=rows))
    with opened(kind, context) as backend, pytest.raises(RequestError, match="do not fit 3 tokens and 0 numbers"):
        backend.forward(batch(tokens, hidden=rows))
