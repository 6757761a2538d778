"""Texts can be evaluated piece by piece: operators keep what later tokens need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g
from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins
from llamafw.testing.graphs import Variation, variations
from llamafw.testing.tiny import write_tiny_gguf

TOKENS = [(7 * i * i + 3 * i + 1) % 300 for i in range(40)]
CUTS = ([1] * 40, [17, 1, 22], [3, 37])
CAUSAL = [one for one in variations() if one.operator != ""]

Read = Callable[[str], g.Array]


@pytest.fixture
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[g.Graph, Read]:
    """A graph, and the function that reads its weights."""
    variation: Variation = request.param
    quants = Plugins().registry("quant")
    model = read_gguf(write_tiny_gguf(tmp_path / "model.gguf", tensors=variation.tensors()), quants)
    return variation.build(model), g.read_weights(model, quants)


each = pytest.mark.parametrize("opened", CAUSAL, indirect=True, ids=lambda one: one.name)
first = pytest.mark.parametrize("opened", CAUSAL[:1], indirect=True, ids=lambda one: one.name)
recurrent = pytest.mark.parametrize(
    "opened", [one for one in CAUSAL if one.operator == "Conv"], indirect=True, ids=lambda one: one.name
)


def in_pieces(run: g.Evaluator, sizes: list[int], state: g.TextState, *results: g.Value) -> list[g.Array]:
    """Return the rows of the whole text, evaluated with some numbers of tokens at once."""
    start, pieces = state.n_tokens, []
    for size in sizes:
        pieces.append(run(TOKENS[start : start + size], state, *results))
        start += size
    return [np.concatenate(rows) for rows in zip(*pieces, strict=True)]


@each
def test_results_do_not_depend_on_pieces(opened: tuple[g.Graph, Read]) -> None:
    graph, read = opened
    expected = g.evaluate(graph, TOKENS, read)[0]
    run = g.Evaluator(graph, read)
    for sizes in CUTS:
        (rows,) = in_pieces(run, sizes, g.TextState(graph, len(TOKENS)), graph.hidden)
        np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-12)


@each
def test_float32_is_close_to_float64(opened: tuple[g.Graph, Read]) -> None:
    graph, read = opened
    state = g.TextState(graph, len(TOKENS), np.float32, (np.float32, np.float16))
    (rows,) = in_pieces(g.Evaluator(graph, read, np.float32), CUTS[1], state, graph.hidden)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, g.evaluate(graph, TOKENS, read)[0], rtol=0, atol=0.01)
    types = [array.dtype for array in state.arrays(1)]
    assert types[:2] == [np.float32, np.float16]


@first
def test_weights_are_read_once_and_only_if_they_are_needed(opened: tuple[g.Graph, Read]) -> None:
    graph, read = opened
    reads = Counter[str]()

    def counted(name: str) -> g.Array:
        reads[name] += 1
        return read(name)

    run, state = g.Evaluator(graph, counted), g.TextState(graph, 8)
    assert run(TOKENS[:2], state) == []  # the caches need no output norm
    assert "output_norm.weight" not in reads
    run(TOKENS[2:4], state, graph.hidden)
    assert "output_norm.weight" in reads
    assert set(reads.values()) == {1}


@first
def test_a_text_can_be_cut_if_it_has_only_caches(opened: tuple[g.Graph, Read]) -> None:
    graph, read = opened
    run, state = g.Evaluator(graph, read), g.TextState(graph, 40)
    expected = run(TOKENS, state, graph.hidden)[0]
    assert not state.fixed
    state.n_tokens = 11
    np.testing.assert_allclose(run(TOKENS[11:], state, graph.hidden)[0], expected[11:], atol=1e-12)


@recurrent
def test_a_state_continues_from_a_copy(opened: tuple[g.Graph, Read]) -> None:
    """What `arrays` returns is everything that later tokens need."""
    graph, read = opened
    run, state, other = g.Evaluator(graph, read), g.TextState(graph, 40), g.TextState(graph, 64)
    run(TOKENS[:25], state)
    for array, target in zip(state.arrays(25), other.arrays(25), strict=True):
        assert array.shape == target.shape
        target[...] = array
    other.n_tokens = 25
    expected, continued = (run(TOKENS[25:], one, graph.hidden)[0] for one in (state, other))
    np.testing.assert_array_equal(continued, expected)


@recurrent
def test_a_cleared_state_is_that_of_a_new_text(opened: tuple[g.Graph, Read]) -> None:
    graph, read = opened
    run, state = g.Evaluator(graph, read), g.TextState(graph, 40)
    expected = run(TOKENS[:9], state, graph.hidden)[0]
    state.clear()
    assert state.n_tokens == 0
    np.testing.assert_array_equal(run(TOKENS[:9], state, graph.hidden)[0], expected)


def test_the_context_decides_about_frequencies() -> None:
    """A short text in a long context has the frequencies of the long context."""
    w = g.Parameters({"rows.weight": (4, 2)})
    rotation = g.Rotation(np.ones(1), long_frequencies=np.zeros(1), original_context=8)
    x = g.flat(g.rope(g.heads(g.embedding(g.TOKENS, w["rows"]), 1), rotation))
    graph, rows = g.Graph(x, None, 16), np.arange(8.0).reshape(4, 2)

    run = g.Evaluator(graph, {"rows.weight": rows}.__getitem__)
    short, long = (run([1, 2], g.TextState(graph, n_ctx), x)[0] for n_ctx in (8, 9))
    np.testing.assert_array_equal(long, rows[1:3])
    assert np.abs(short - long).max() > 0.1


def test_states_have_windows_and_sizes() -> None:
    w = g.Parameters({"rows.weight": (4, 6), "kernel.weight": (6, 3)})
    x = g.embedding(g.TOKENS, w["rows"])
    heads = g.heads(g.conv(x, w["kernel"]), 2)
    shared = g.cache(heads, g.concat(heads, heads))
    windows: Any = [4, 8]
    hidden = [g.flat(g.attention(heads, shared, 1.0, window=window)) for window in windows]
    states = g.states(g.Graph(hidden[0] + hidden[1], None, 16))
    assert [(type(one.value), one.per_position, one.fixed, one.window) for one in states] == [
        (g.Conv, (), (2, 6), None),
        (g.Cache, (2, 9), (), 8),
    ]
