"""Positions of self-extend: those of llama.cpp, and what a model computes with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g
from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins
from llamafw.testing.reference import Reference
from llamafw.testing.tiny import write_tiny_gguf
from support.self_extend import llama_cpp_positions

TOKENS = [int(token) for token in np.random.default_rng(5).integers(0, 300, 100)]
GROUPS = [(2, 8), (4, 32), (3, 24), (5, 5)]

each = pytest.mark.parametrize("groups", GROUPS, ids=lambda one: f"{one[0]} of {one[1]}")


def seen(n: int, factor: int, width: int) -> Any:
    """Return the positions that each token sees the others and itself at, ``(n, n)``, by the operator."""
    grouped, tokens = g.GroupedPositions(factor, width), np.arange(n)
    moves = grouped.moves()[tokens % width]
    return np.tril(grouped.of(tokens) - moves * (tokens // width < (tokens // width)[:, None]))


@pytest.mark.inventory("K-11")
@each
def test_positions_are_those_of_llama_cpp(groups: tuple[int, int]) -> None:
    expected = llama_cpp_positions(300, *groups)
    np.testing.assert_array_equal(seen(300, *groups), np.tril(expected))
    assert np.diag(expected).max() == np.diag(expected)[-groups[1] :].max() < 300 // groups[0] + groups[1]


@pytest.mark.inventory("K-11")
@each
@pytest.mark.parametrize("sizes", [[100], [1] * 100, [30, 3, 67]], ids=["at once", "token by token", "in pieces"])
def test_logits_are_those_of_grouped_positions(tmp_path: Path, groups: tuple[int, int], sizes: list[int]) -> None:
    path = write_tiny_gguf(tmp_path / "model.gguf")
    expected = Reference(path).logits(TOKENS, llama_cpp_positions(len(TOKENS), *groups))
    quants = Plugins().registry("quant")
    model = read_gguf(path, quants)
    graph = g.self_extend(Plugins().registry("architecture")["llama"](model), *groups)
    assert graph.logits is not None
    run, state = g.Evaluator(graph, g.read_weights(model, quants)), g.TextState(graph, len(TOKENS))
    ends = np.cumsum(sizes).tolist()
    rows = [run(TOKENS[end - size : end], state, graph.logits)[0] for size, end in zip(sizes, ends, strict=True)]
    np.testing.assert_allclose(np.concatenate(rows), expected, rtol=1e-9, atol=1e-9)

    plain = Reference(path).logits(TOKENS)
    n = groups[1]
    np.testing.assert_allclose(expected[:n], plain[:n], rtol=1e-12)
    assert np.abs(expected[n:] - plain[n:]).max() > 1e-3


def test_window_that_is_not_a_multiple_of_the_factor_is_an_error() -> None:
    with pytest.raises(g.GraphError, match="windows of 10 tokens cannot be divided into groups of 4"):
        g.GroupedPositions(4, 10)


def small_graph(
    *,
    rotation: g.Rotation | None = None,
    positions: g.Value = g.POSITIONS,
    scaled: bool = False,
    learned: bool = False,
    encoder: bool = False,
    recurrent: bool = False,
    **attention: Any,
) -> g.Graph:
    """Return a graph of one layer; options say how its results depend on positions."""
    weight = g.Weight("table", (50, 32))
    x = g.EmbeddingLookup(g.TOKENS, weight) + g.EmbeddingLookup(g.POSITIONS if learned else g.TYPES, weight)
    if recurrent:
        x = g.Conv(x, g.Weight("conv", (32, 3)))
    heads = g.Reshape(x, (2, 16))
    turned = heads if rotation is None else g.Rope(heads, rotation, positions)
    keys = turned * 2.0 if scaled else turned
    past = g.KeyValue(keys, heads) if encoder else g.Cache(keys, heads)
    return g.Graph(g.Reshape(g.Attention(turned, past, 0.25, **attention), (32,)), None, 64)


ROTATION = g.Rotation(np.ones(8))
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no rotations": ({}, "it has no rotary positions"),
    "learned positions": ({"rotation": ROTATION, "learned": True}, "its positions are learned"),
    "M-RoPE": ({"rotation": g.Rotation(np.ones(8), sections=(4, 4))}, "M-RoPE"),
    "computed positions": ({"rotation": ROTATION, "positions": g.GroupedPositions(2, 4)}, "positions are computed"),
    "encoder": ({"rotation": ROTATION, "encoder": True}, "it is an encoder"),
    "recurrent": ({"rotation": ROTATION, "recurrent": True}, "it has recurrent layers"),
    "window": ({"rotation": ROTATION, "window": 8}, "its attention has windows"),
    "ALiBi": ({"rotation": ROTATION, "alibi": (0.5, 0.25)}, "its attention depends on distances"),
    "temperature": ({"rotation": ROTATION, "temperature": (0.1, 8)}, "the scale of its attention depends on positions"),
    "keys computed from rotated ones": ({"rotation": ROTATION, "scaled": True}, "cannot be moved"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_positions_that_cannot_be_grouped_are_refused(name: str) -> None:
    options, message = REFUSED[name]
    with pytest.raises(g.GraphError, match=message):
        g.self_extend(small_graph(**options), 2, 8)


def test_only_rotations_get_other_positions() -> None:
    graph = small_graph(rotation=ROTATION)
    before, after = list(graph), list(g.self_extend(graph, 2, 8))
    assert [type(value) for value in after if not isinstance(value, g.GroupedPositions)] == [type(v) for v in before]
    (rope,) = (value for value in after if isinstance(value, g.Rope))
    assert isinstance(rope.positions, g.GroupedPositions)
    assert (rope.positions.factor, rope.positions.width) == (2, 8)
