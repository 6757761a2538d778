"""The inputs of matrices are summed as the operators get them, with every architecture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import llamafw.graph as g
from checkpoints import Checkpoint, all_checkpoints, write
from llamafw.evaluation.activations import observe
from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins

CHECKPOINTS = list(all_checkpoints())
PLUGINS = Plugins()
QUANTS = PLUGINS.registry("quant")


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda one: one.name)
def test_sums_are_those_of_the_operators(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = read_gguf(write(checkpoint, tmp_path / "model.gguf"), QUANTS)
    graph = PLUGINS.registry("architecture")[checkpoint.architecture](model)
    tokens = np.random.default_rng(0).integers(0, graph.n_vocab or 32, 12).tolist()
    evaluator = g.Evaluator(graph, g.read_weights(model, QUANTS))

    expected: dict[str, dict[int, np.ndarray]] = {}
    counts: dict[str, dict[int, int]] = {}
    seen = set()
    for value in graph:
        if not isinstance(value, g.Linear | g.ExpertLinear) or "blk." not in value.weight.name:
            continue
        if (value.weight.name, id(value.x)) in seen:  # parts of a fused tensor have the same input
            continue
        seen.add((value.weight.name, id(value.x)))
        sums = expected.setdefault(value.weight.name, {})
        number = counts.setdefault(value.weight.name, {})
        results = [value.x] if isinstance(value, g.Linear) else [value.x, value.chosen]
        x, *chosen = evaluator(tokens, g.TextState(graph, len(tokens)), *results)
        for t in range(len(tokens)):
            if not chosen:
                for i, row in enumerate(np.atleast_2d(x[t]) if value.weight.shape[2:] else [x[t]]):
                    sums[i] = sums.get(i, 0) + (np.atleast_2d(row) ** 2).sum(0)
                number[0] = number.get(0, 0) + 1
                continue
            for i, expert in enumerate(chosen[0][t].astype(int).tolist()):
                row = x[t] if x[t].ndim == 1 else x[t][i]
                sums[expert] = sums.get(expert, 0) + row**2
                number[expert] = number.get(expert, 0) + 1

    observed = observe(graph)
    rows = g.Evaluator(observed.graph, g.read_weights(model, QUANTS))(
        tokens, g.TextState(observed.graph, len(tokens)), observed.graph.hidden
    )[0]
    for part in np.array_split(rows, 3):
        observed.add(part)
    assert observed.sums.keys() == expected.keys()
    assert not observed.skipped
    for name, found in observed.sums.items():
        for i, squares in expected[name].items():
            np.testing.assert_allclose(found.squares[i], squares, rtol=1e-9)
        assert {i: int(n) for i, n in enumerate(found.counts) if n} == counts[name]


def test_output_matrix_is_observed_if_asked_for(tmp_path: Path) -> None:
    (checkpoint,) = [one for one in CHECKPOINTS if one.name == "llama"]
    model = read_gguf(write(checkpoint, tmp_path / "model.gguf"), QUANTS)
    graph = PLUGINS.registry("architecture")["llama"](model)
    names = {one.name for one in observe(graph, output=True).matrices}
    assert names - {one.name for one in observe(graph).matrices} == {"output.weight"}
