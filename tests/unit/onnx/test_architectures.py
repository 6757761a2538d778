"""Tiny checkpoints of all architectures: results are close to float64, however the text is cut into batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g
from checkpoints import all_checkpoints, write
from llamafw import BackendContext, Floats
from llamafw.testing.batches import batch, logits
from support.numba_backend import make_context
from support.onnx_backend import open_backend

CHECKPOINTS = {one.name: one for one in all_checkpoints()}
DECODERS = [name for name, one in CHECKPOINTS.items() if one.output == "logits"]
ENCODERS = [name for name, one in CHECKPOINTS.items() if one.output == "hidden"]
N_TOKENS, N_CTX = 60, 128
TOKENS = [(7 * i * i + 3 * i + 1) % 100 for i in range(N_TOKENS)]
OTHERS = [(5 * i * i + i + 3) % 100 for i in range(N_TOKENS)]  # the tokens of another slot
CUTS = [N_TOKENS], [7, 20, 1, 13, 19], [1] * 16 + [44]  # numbers of tokens per batch
OPTIONS: dict[str, Any] = {"n_ctx": N_CTX, "cache_type_k": "f32", "cache_type_v": "f32"}
TOLERANCE = 1e-4
"""The largest difference, relative to the largest number: sums are float32, in another order."""

FLOAT16_TOLERANCE = 0.04
"""The same for float16, which rounds each number by up to 1/2048."""

Evaluated = Callable[[str], tuple[Path, g.Array, g.Array]]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """Return a function that gives a checkpoint's file, hidden states and logits in float64, by its name."""
    folder = tmp_path_factory.mktemp("checkpoints")

    @cache
    def evaluate(name: str) -> tuple[Path, g.Array, g.Array]:
        path = write(CHECKPOINTS[name], folder / f"{name}.gguf")
        context = make_context(path)
        graph, evaluator = context.graph, g.Evaluator(context.graph, g.read_weights(context.model, context.quants))
        results = evaluator(TOKENS, g.TextState(graph, N_CTX), graph.hidden, graph.logits or graph.hidden)
        return path, results[0], results[1]

    return evaluate


def assert_close(actual: Floats, expected: g.Array, what: str) -> None:
    assert actual.shape == expected.shape
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error < TOLERANCE, what


@pytest.mark.parametrize("name", DECODERS)
def test_logits_and_hidden_states_match_float64(name: str, evaluated: Evaluated) -> None:
    path, hidden, rows = evaluated(name)
    with open_backend(path, n_ubatch=48, **OPTIONS) as backend:
        assert_close(backend.hidden(batch((1, 0, TOKENS))), hidden, "hidden states")
        for sizes in CUTS:
            assert_close(logits(backend, TOKENS, sizes), rows, f"logits in batches of {sizes}")


@pytest.mark.parametrize("name", ENCODERS)
def test_hidden_states_of_encoders_match_float64_beside_other_texts(name: str, evaluated: Evaluated) -> None:
    path, hidden, _ = evaluated(name)
    with open_backend(path, n_slots=3, n_batch=128, n_ubatch=48, n_ctx=N_CTX) as backend:
        assert backend.whole_texts
        alone = backend.hidden(batch((1, 0, TOKENS)))
        beside = backend.hidden(batch((0, 0, OTHERS[:50]), (1, 0, TOKENS), (2, 0, OTHERS[:3])))
        assert_close(alone, hidden, "hidden states")
        assert_close(beside[50:-3], hidden, "hidden states beside other texts")


@pytest.mark.parametrize("name", DECODERS)
def test_logits_match_float64_beside_other_slots(name: str, evaluated: Evaluated) -> None:
    """Slots 0 and 2 compute other tokens in the same batches, of other lengths; in some they have none."""
    path, _, rows = evaluated(name)
    with open_backend(path, n_slots=3, **OPTIONS) as backend:
        found, first, filled = [], 0, [0, 0, 0]
        for i, size in enumerate(CUTS[1]):
            n_before, n_after = i % 4, 3 * (i % 2) + 1
            before, after = OTHERS[filled[0] :][:n_before], OTHERS[filled[2] :][:n_after]
            runs = [(0, filled[0], before), (1, first, TOKENS[first : first + size]), (2, filled[2], after)]
            outputs = range(len(before), len(before) + size)
            found.append(backend.forward(batch(*runs, outputs=outputs)))
            first, filled = first + size, [filled[0] + len(before), 0, filled[2] + len(after)]
        assert_close(np.concatenate(found), rows, "logits beside other slots")


@pytest.fixture
def float16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let models compute in float16 on the CPU, as on GPUs.

    ONNX Runtime converts where the CPU has no kernel.
    """
    from llamafw_backends.onnx import backend
    from llamafw_backends.onnx.placement import choose_device

    def choose(context: BackendContext) -> Any:
        return replace(choose_device(context), float_type=np.dtype(np.float16))

    monkeypatch.setattr(backend, "choose_device", choose)


@pytest.mark.usefixtures("float16")
@pytest.mark.parametrize("name", DECODERS)
def test_logits_in_float16_are_close(name: str, evaluated: Evaluated) -> None:
    """With experts, rounding may change which ones a token gets, and so the tokens after it; not the first ones."""
    path, _, rows = evaluated(name)
    with open_backend(path, n_ctx=N_CTX, n_ubatch=48) as backend:
        found = logits(backend, TOKENS, CUTS[1])
    assert np.isfinite(found).all()

    errors = np.abs(found - rows).max(-1) / np.abs(rows).max()
    has_experts = any(isinstance(value, g.TopK) for value in make_context(path).graph)
    assert (np.quantile(errors, 0.1) if has_experts else errors.max()) < FLOAT16_TOLERANCE
