"""Whole graphs: order of evaluation, parameters, states, text forms, and Llama against the reference."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g
from llamafw import Model
from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins
from llamafw.testing.reference import Reference
from llamafw.testing.tiny import write_tiny_gguf


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("graph") / "tiny.gguf")


@pytest.fixture(scope="module")
def model(path: Path) -> Model:
    return read_gguf(path, Plugins().registry("quant"))


def llama(model: Model) -> tuple[g.Graph, g.Parameters]:
    """Return Llama's graph, written out, and the parameters that it used."""
    keys = {name.removeprefix("llama."): value for name, value in model.metadata.items()}
    n_head, n_kv = keys["attention.head_count"], keys["attention.head_count_kv"]
    size, eps = keys["embedding_length"] // n_head, keys["attention.layer_norm_rms_epsilon"]
    rotation = g.Rotation(10_000.0 ** (-2 * np.arange(size // 2) / size), interleaved=True)
    w = g.Parameters({name: tensor.shape for name, tensor in model.tensors.items()})
    x = g.embedding(g.TOKENS, w["token_embd"])
    for i, layer in enumerate(w.layers(keys["block_count"])):
        h = g.rms_norm(x, layer["attn_norm"], eps)
        q = g.rope(g.heads(g.linear(h, layer["attn_q"]), n_head), rotation)
        k = g.rope(g.heads(g.linear(h, layer["attn_k"]), n_kv), rotation)
        v = g.heads(g.linear(h, layer["attn_v"]), n_kv)
        x = x + g.linear(g.flat(g.attention(q, g.cache(k, v), size**-0.5)), layer["attn_output"])
        h = g.rms_norm(x, layer["ffn_norm"], eps)
        gated = g.activation(g.linear(h, layer["ffn_gate"]), "silu") * g.linear(h, layer["ffn_up"])
        x = g.layer_output(x + g.linear(gated, layer["ffn_down"]), i)
    hidden = g.rms_norm(x, w["output_norm"], eps)
    return g.Graph(hidden, g.linear(hidden, w["output"] if "output" in w else w["token_embd"]), 128), w


def test_rewrite_replaces_operators_and_their_readers(model: Model) -> None:
    graph, _ = llama(model)

    def change(value: g.Value) -> g.Value:
        return value * 2.0 if isinstance(value, g.Attention) else value

    new = g.rewrite(graph, change)
    assert new.n_ctx_train == graph.n_ctx_train
    old_values, values = list(graph), list(new)
    n_attention = sum(isinstance(value, g.Attention) for value in old_values)
    assert n_attention == sum(isinstance(value, g.Scale) for value in values) == 2
    assert len(values) == len(old_values) + n_attention
    first = next(i for i, value in enumerate(old_values) if isinstance(value, g.Attention))
    assert values[: first + 1] == old_values[: first + 1]  # the same objects
    assert not set(values[first + 1 :]) & set(old_values[first + 1 :])


def test_rewrite_without_a_change_keeps_all_values(model: Model) -> None:
    graph, _ = llama(model)
    assert list(g.rewrite(graph, lambda value: value)) == list(graph)


def test_llama_matches_the_float64_reference(path: Path, model: Model) -> None:
    graph, w = llama(model)
    tokens = list(range(5, 45))
    hidden, logits = g.evaluate(graph, tokens, g.read_weights(model, Plugins().registry("quant")))
    reference = Reference(path)
    assert logits is not None
    assert w.unused() == []
    np.testing.assert_allclose(hidden, reference.hidden(tokens), atol=1e-9)
    np.testing.assert_allclose(logits, reference.logits(tokens), atol=1e-9)


def test_values_come_after_their_inputs(model: Model) -> None:
    graph, _ = llama(model)
    seen: set[int] = set()
    values = list(graph)
    for value in values:
        assert all(id(one) in seen for one in value.inputs())
        seen.add(id(value))
    assert len(seen) == len(values)
    assert graph.causal


def test_values_are_short_when_printed(model: Model) -> None:
    graph, _ = llama(model)
    assert repr(graph.hidden) == "<RMSNorm (64,)>"
    x: g.Value = g.TOKENS
    for _ in range(60):
        x = g.Add(x, x)  # 2**60 operands, if each use is printed
    assert repr(g.Graph(x, None, 128)) == "Graph(hidden=<Add ()>, logits=None, n_ctx_train=128)"


def test_states_have_the_size_of_the_cache(model: Model) -> None:
    graph, _ = llama(model)
    states = g.states(graph)
    assert [state.per_position for state in states] == [(2, 32)] * 2
    assert all(state.fixed == () for state in states)


def test_text_distinguishes_every_number(model: Model) -> None:
    graph, _ = llama(model)
    text = g.as_text(graph)
    assert text == g.as_text(llama(model)[0])
    assert "RMSNorm(%1, weight=blk.0.attn_norm.weight" in text
    scaled = g.Graph(graph.hidden * 1.0000000000000002, graph.logits, 128)
    assert g.as_text(scaled) != g.as_text(g.Graph(graph.hidden * 1.0, graph.logits, 128)) != text


def test_json_and_dot_name_every_value(model: Model) -> None:
    graph, _ = llama(model)
    found = json.loads(g.as_json(graph))
    assert [value["id"] for value in found["values"]] == list(range(len(list(graph))))
    assert found["values"][1] == {
        "id": 1,
        "operator": "EmbeddingLookup",
        "shape": [64],
        "inputs": {"ids": 0},
        "attributes": {"weight": "token_embd.weight"},
    }
    assert found["values"][found["logits"]]["inputs"] == {"x": found["hidden"]}
    assert found["n_ctx_train"] == graph.n_ctx_train
    dot = g.as_dot(graph)
    assert dot.count(" -> ") == sum(len(value.inputs()) for value in graph)
    assert dot.startswith("digraph model {")


def rotated(n: int, changed: int | None = None) -> g.Graph:
    """Return a graph with one rotation by ``n`` frequencies, one of which can be changed slightly."""
    frequencies = np.array([0.5**i for i in range(n)])
    if changed is not None:
        frequencies[changed] *= 1 + 2**-52
    heads = g.heads(g.embedding(g.TOKENS, g.Parameters({"e.weight": (4, 2 * n)})["e"]), 1)
    x = g.flat(g.rope(heads, g.Rotation(frequencies)))
    return g.Graph(x, x, 4)


def test_long_arrays_are_shortened_except_in_json() -> None:
    expected = r"frequencies=\[1 0\.5 0\.25 … 0\.0001221; 14 numbers, hash [0-9a-f]{8}\]"
    assert re.search(expected, g.as_text(rotated(14)))
    assert re.search(expected, g.as_dot(rotated(14)))
    (rotation,) = [
        value["attributes"]["rotation"]
        for value in json.loads(g.as_json(rotated(14)))["values"]
        if value["operator"] == "Rope"
    ]
    assert rotation["frequencies"] == [0.5**i for i in range(14)]
    assert "frequencies=[1.0 0.5 0.25 0.125]" in g.as_text(rotated(4))


def test_text_distinguishes_every_number_of_a_long_array() -> None:
    assert g.as_text(rotated(14)) == g.as_text(rotated(14))
    assert len({g.as_text(rotated(14, changed)) for changed in (None, *range(14))}) == 15


@dataclass(frozen=True, slots=True, eq=False)
class Optional(g.Value):
    """An operator of a plugin: two optional inputs, then several, then an array."""

    x: g.Value
    a: g.Value | None = None
    b: g.Value | None = None
    parts: tuple[g.Value, ...] = ()
    others: tuple[g.Value, ...] = ()
    low: float = -math.inf
    numbers: Any = ()

    def infer_shape(self) -> g.Shape:
        return self.x.shape


def test_text_distinguishes_inputs_that_may_be_missing() -> None:
    x = g.TOKENS
    y = g.Scale(x, 2.0)
    graphs = [
        g.Graph(g.Scale(one, 1.0), None, 4)
        for one in (
            Optional(x, y),
            Optional(x, None, y),
            Optional(x, None, None, (y,)),
            Optional(x, y, y),
            Optional(x, y, None, (y,)),
            Optional(x, None, None, (y, y)),
            Optional(x, None, None, (y,), (y,)),
            Optional(x, None, None, (), (y, y)),
            Optional(x, y, numbers=np.ones(2)),
            Optional(x, y, numbers=np.arange(12.0)),
            Optional(x, y, numbers=np.arange(12.0).reshape(3, 4)),
            Optional(x, y, numbers=np.arange(12.0).reshape(4, 3)),
        )
    ]
    assert len({g.as_text(graph) for graph in graphs}) == len(graphs)
    assert len({g.as_json(graph) for graph in graphs}) == len(graphs)
    assert '"low": "-inf"' in g.as_json(graphs[0])


def shapes(**tensors: Any) -> g.Parameters:
    return g.Parameters({name.replace("__", "."): shape for name, shape in tensors.items()})


def test_parameters_find_biases_and_record_what_is_used() -> None:
    w = shapes(blk__0__attn_q__weight=(4, 3), blk__0__attn_q__bias=(4,), blk__0__ssm_a=(2,), nextn__x__weight=(1, 1))
    (layer,) = w.layers(1)
    assert list(layer) == ["attn_q"]
    assert "attn_q" in layer
    assert "attn_k" not in layer
    parameter = layer["attn_q"]
    assert (parameter.weight.shape, parameter.bias) == ((4, 3), g.Weight("blk.0.attn_q.bias", (4,)))
    assert w.unused() == ["blk.0.ssm_a", "nextn.x.weight"]
    assert layer.tensor("ssm_a").shape == (2,)
    w.skip("nextn.")
    assert w.unused() == []


def test_files_may_lack_outermost_dimensions_of_1() -> None:
    w = g.Parameters({"gate.weight": (3,), "full.weight": (1, 3)})
    x = g.embedding(g.TOKENS, g.Parameter(g.Weight("rows", (4, 3))))
    rows, gate = np.arange(12.0).reshape(4, 3), np.array([1.0, -2.0, 0.5])
    for name in ("gate", "full"):
        product = g.linear(x, w.of_shape(name, 1, 3))
        arrays = {"rows": rows, f"{name}.weight": gate.reshape(w[name].weight.shape)}
        hidden, _ = g.evaluate(g.Graph(product, None, 8), [2, 0], arrays.__getitem__)
        np.testing.assert_array_equal(hidden, rows[[2, 0]] @ gate[:, None])
    with pytest.raises(g.GraphError, match=r"'gate.weight' has shape \(3,\), not \(2, 3\)"):
        w.of_shape("gate", 2, 3)


@pytest.mark.parametrize("build", [g.embedding, lambda x, p: g.rms_norm(g.embedding(x, g.Parameter(p.weight)), p, 0.1)])
def test_a_bias_that_an_operator_does_not_have_is_refused(build: Any) -> None:
    w = g.Parameters({"rows.weight": (4, 3), "rows.bias": (3,)})
    with pytest.raises(g.GraphError, match="the tensor 'rows.bias' is not supported"):
        build(g.TOKENS, w["rows"])


def test_parameters_are_divided_by_rows() -> None:
    part = shapes(qkv__weight=(6, 3), qkv__bias=(6,))["qkv"].rows(2, 5)
    assert (part.weight.first, part.weight.last, part.weight.shape) == (2, 5, (3, 3))
    assert part.bias is not None
    assert (part.bias.first, part.bias.last) == (2, 5)
    with pytest.raises(g.GraphError, match="rows 4 to 6"):
        shapes(qkv__weight=(6, 3))["qkv"].rows(4, 7)
    with pytest.raises(g.GraphError, match=r"'qkv.bias' has shape \(7,\) instead of \(6,\)"):
        shapes(qkv__weight=(6, 3), qkv__bias=(7,))["qkv"].rows(2, 5)


def test_errors_name_the_tensor_of_a_row() -> None:
    w = shapes(e__weight=(9, 4), up__weight=(6, 4), down__weight=(3, 6))
    x = g.embedding(g.TOKENS, w["e"])
    narrow = g.linear(g.activation(g.linear(x, w["up"]), "silu"), w["down"])
    with pytest.raises(g.GraphError, match=r"\(4,\) \(from 'e.weight'\) and \(3,\) \(from 'down.weight'\)"):
        x + narrow * 0.5
    with pytest.raises(g.GraphError, match=r"row of shape \(3,\) \(from 'down.weight'\) cannot be divided"):
        g.heads(g.rms_norm(narrow, None, 1e-6), 2)


@pytest.mark.parametrize("name", ["attn_k", "ssm_a"])
def test_missing_tensors_are_named(name: str) -> None:
    (layer,) = shapes(blk__0__attn_q__weight=(4, 3)).layers(1)
    with pytest.raises(g.GraphError, match=rf"blk\.0\.{name}"):
        layer[name] if name == "attn_k" else layer.tensor(name)
