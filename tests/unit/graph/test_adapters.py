"""In float64, a graph with adapters has the same results as the model with merged weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g
from checkpoints import all_checkpoints, tensors, write
from llamafw.testing.adapters import Arrays, random_factors
from support.adapters import matrices_of, merged
from support.numba_backend import make_context

CHECKPOINTS = {one.name: one for one in all_checkpoints()}
RANKS, ALPHAS, STRENGTHS = (3, 5), (6.0, 2.5), (0.7, -0.4)
TOKENS = [(7 * i * i + 3 * i + 1) % 100 for i in range(12)]


def adapter(name: str, factors: Arrays, factor: float) -> g.Adapter:
    """Return an adapter with these factors."""
    matrices = {}
    for one in factors:
        if one.endswith(".lora_a"):
            stem = one.removesuffix(".lora_a")
            matrices[stem] = g.LowRank(factors[one].shape, factors[f"{stem}.lora_b"].shape, factor)
    return g.Adapter(name, matrices)


def stacked(adaptation: g.Adaptation, parts: list[Arrays]) -> Arrays:
    """Return the tensors that a graph with adapters needs."""
    found: Arrays = {}
    for stack in adaptation.stacks:
        array = found[stack.name] = np.zeros(stack.shape, np.float32)
        rows = np.moveaxis(array, stack.axis, 0)
        for part in stack.parts:
            factor = np.moveaxis(np.atleast_2d(parts[part.adapter][part.name]), stack.axis, 0)
            rows[part.start : part.start + len(factor)] = factor
    return found


def scales(adaptation: g.Adaptation, strengths: Mapping[int, float]) -> g.Array:
    """Return the scales of a token."""
    return np.array([factor * strengths.get(adapter, 0.0) for adapter, factor in adaptation.scales])


def hidden_and_logits(graph: g.Graph, weights: Mapping[str, Any], numbers: g.Array | None = None) -> list[g.Array]:
    hidden, logits = g.evaluate(graph, TOKENS, weights.__getitem__, scales=numbers)
    return [hidden] if logits is None else [hidden, logits]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_adapters_of_all_matrices_change_a_model_as_merging_does(name: str, tmp_path: Path) -> None:
    graph = make_context(write(CHECKPOINTS[name], tmp_path / "model.gguf")).graph
    weights = tensors(CHECKPOINTS[name])
    shapes = {one: weight.shape for one, weight in weights.items()}
    names = matrices_of(graph, shapes)
    assert len(names) >= 2
    parts = [
        random_factors({one: shapes[one] for one in chosen}, rank, seed)
        for seed, (rank, chosen) in enumerate(zip(RANKS, (names, names[::2]), strict=True))
    ]
    factors = [alpha / rank for alpha, rank in zip(ALPHAS, RANKS, strict=True)]

    adapters = [adapter(f"adapter {i}", part, factors[i]) for i, part in enumerate(parts)]
    adaptation = g.adapt(graph, adapters, shapes)
    assert [one.value.shape for one in g.states(adaptation.graph)] == [one.value.shape for one in g.states(graph)]
    everything = {**weights, **stacked(adaptation, parts)}
    expected, is_tied = dict[str, Any](weights), "output.weight" not in weights
    for part, factor, strength in zip(parts, factors, STRENGTHS, strict=True):
        expected = merged(expected, part, factor * strength)

    reference = graph
    if is_tied and graph.logits is not None:  # embeddings and output are changed separately
        expected["output.weight"] = weights["token_embd.weight"]
        reference = g.rewrite(graph, untied)
    both = scales(adaptation, dict(enumerate(STRENGTHS)))
    for got, wanted in zip(
        hidden_and_logits(adaptation.graph, everything, both), hidden_and_logits(reference, expected), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-9 * np.abs(wanted).max())
        assert np.isfinite(wanted).all()

    without = hidden_and_logits(adaptation.graph, everything)
    for got, wanted in zip(without, hidden_and_logits(graph, weights), strict=True):
        np.testing.assert_array_equal(got, wanted)


def untied(value: g.Value) -> g.Value:
    """Let the output matrix be another tensor than the embedding matrix."""
    if isinstance(value, g.Linear) and value.weight.name == "token_embd.weight":
        return g.Linear(value.x, g.Weight("output.weight", value.weight.shape), value.bias, value.scale)
    return value
