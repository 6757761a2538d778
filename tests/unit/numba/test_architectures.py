"""Tiny checkpoints of all architectures: results are close to float64, and do not depend on how they are computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g
from checkpoints import all_checkpoints, write
from llamafw import Floats
from llamafw.testing.batches import batch, logits
from support.numba_backend import fill_with_nan, make_context, open_backend

CHECKPOINTS = {one.name: one for one in all_checkpoints()}
DECODERS = [
    name for name, one in CHECKPOINTS.items() if one.output == "logits" or one.architecture == "qwen3"
]  # test_whole_texts.py has the others
N_TOKENS, N_CTX = 60, 128
TOKENS = [(7 * i * i + 3 * i + 1) % 100 for i in range(N_TOKENS)]
OTHERS = [(5 * i * i + i + 3) % 100 for i in range(N_CTX)]  # the tokens of another slot
CUTS = {  # numbers of tokens per batch, by the number of threads
    1: ([N_TOKENS], [7, 20, 1, 13, 19], [2, 3, 55]),
    2: ([N_TOKENS], [1, 1, 15, 16, 17, 10]),
    3: ([33, 27], [1] * N_TOKENS),
}
OPTIONS: dict[str, Any] = {"n_ctx": N_CTX, "cache_type_k": "f32", "cache_type_v": "f32"}

Write = Callable[[str], Path]


@pytest.fixture(scope="module")
def write_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Return a function that writes a checkpoint, given its name."""
    folder = tmp_path_factory.mktemp("checkpoints")

    @cache
    def written(name: str) -> Path:
        return write(CHECKPOINTS[name], folder / f"{name}.gguf")

    return written


def evaluate(path: Path) -> tuple[g.Array, g.Array | None]:
    """Return the hidden states and the logits of the text in float64."""
    context = make_context(path)
    graph, evaluator = context.graph, g.Evaluator(context.graph, g.read_weights(context.model, context.quants))
    outputs = [graph.hidden] if graph.logits is None else [graph.hidden, graph.logits]
    hidden, *rows = evaluator(TOKENS, g.TextState(graph, N_CTX), *outputs)
    return hidden, rows[0] if rows else None


def assert_close(actual: Floats, expected: g.Array) -> None:
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_logits_and_hidden_states_match_float64(name: str, write_checkpoint: Write) -> None:
    path = write_checkpoint(name)
    hidden, rows = evaluate(path)
    with open_backend(path, n_threads=2, **OPTIONS) as backend:
        fill_with_nan(backend)
        assert_close(backend.hidden(batch((1, 0, TOKENS))), hidden)
        if rows is not None:
            assert_close(logits(backend, TOKENS), rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_bits_do_not_depend_on_cuts_threads_and_other_slots(name: str, write_checkpoint: Write) -> None:
    path = write_checkpoint(name)
    with open_backend(path, n_threads=1, **OPTIONS) as single:
        fill_with_nan(single)
        expected = logits(single, TOKENS, [1] * N_TOKENS)
    assert np.isfinite(expected).all()

    for n_threads, cuts in CUTS.items():
        threads: dict[str, Any] = {"n_threads": n_threads, "n_threads_batch": 4 - n_threads}
        with open_backend(path, n_ubatch=48, n_slots=3, **threads, **OPTIONS) as backend:
            for slot, sizes in enumerate(cuts):
                fill_with_nan(backend)
                np.testing.assert_array_equal(logits(backend, TOKENS, sizes, slot), expected, err_msg=str(sizes))
                backend.truncate(slot, 0)
            fill_with_nan(backend)
            np.testing.assert_array_equal(logits_beside_others(backend, cuts[-1]), expected, err_msg=str(cuts[-1]))


def logits_beside_others(backend: Any, sizes: list[int]) -> Floats:
    """Return the logits of the text in slot 1, while slots 0 and 2 compute other tokens in the same batches."""
    for slot in range(3):
        backend.truncate(slot, 0)

    rows, first, filled = [], 0, [0, 0, 0]
    for i, size in enumerate(sizes):
        before, after = (OTHERS[filled[slot] : filled[slot] + n] for slot, n in ((0, i % 4), (2, 3 * (i % 2) + 1)))
        runs = [(0, filled[0], before), (1, first, TOKENS[first : first + size]), (2, filled[2], after)]
        outputs = range(len(before), len(before) + size)
        rows.append(backend.forward(batch(*runs, outputs=outputs)).copy())
        first, filled = first + size, [filled[0] + len(before), 0, filled[2] + len(after)]

    for slot in range(3):
        backend.truncate(slot, 0)
    return np.concatenate(rows)
