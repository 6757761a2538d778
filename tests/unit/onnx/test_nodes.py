"""Operators become the best nodes that a provider has, whose results match float64 for ragged batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import graph as g
from llamafw.testing.batches import batch
from llamafw.testing.graphs import FREQUENCIES, SIZE, Variation, attend, llama, variations
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_backends.onnx.backend import OnnxBackend
from llamafw_backends.onnx.support import Support
from support.onnx_nodes import (
    F32,
    N_CTX,
    NoSupport,
    evaluate,
    kinds,
    make_lowering,
    open_context,
    worst_error,
)

Write = Callable[..., Path]


@pytest.fixture
def write_model(tmp_path: Path) -> Write:
    """Return a function that writes a tiny Llama with some more tensors."""

    def write(variation: Variation | None = None, **options: Any) -> Path:
        tensors = variation.tensors() if variation else {}
        return write_tiny_gguf(tmp_path / "model.gguf", tensors=tensors, **options)

    return write


def with_attention(**options: Any) -> Callable[[Any], g.Graph]:
    return partial(llama, attend=lambda parts, _: attend(*parts, **options))


def with_sinks(**options: Any) -> Callable[[Any], g.Graph]:
    def build(parts: Any, layer: g.Parameters) -> g.Value:
        return attend(*parts, sinks=layer.tensor("attn_sinks.weight"), **options)

    return partial(llama, attend=build)


@dataclass(frozen=True)
class Case:
    """A graph, and how many of its two layers' nodes are of a kind."""

    name: str
    build: Callable[[Any], g.Graph]
    node: str
    n_nodes: int
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def variation(self) -> Variation:
        return Variation(self.name, "", self.build, self.shapes)


def named(name: str, node: str, n_nodes: int) -> Case:
    """Return the case of a graph that all backends are tested with."""
    one = next(one for one in variations() if one.name == name)
    return Case(name, one.build, node, n_nodes, one.shapes)


SINKS = {"attn_sinks.weight": (4,)}


CASES = [
    Case("plain attention", llama, "GroupQueryAttention", 2),
    Case("a window", with_attention(window=8), "GroupQueryAttention", 2),
    Case("limited scores", with_attention(softcap=2.0), "GroupQueryAttention", 2),
    Case("sinks", with_sinks(), "GroupQueryAttention", 2, SINKS),
    Case("window, limit and sinks", with_sinks(window=8, softcap=2.0), "GroupQueryAttention", 2, SINKS),
    Case("temperature", with_attention(temperature=(0.5, 8)), "GroupQueryAttention", 2),
    Case("chunks", with_attention(window=8, window_kind="chunked"), "GroupQueryAttention", 0),
    Case("slopes", with_attention(alibi=(0.5, 0.25, 0.125, 0.0625)), "GroupQueryAttention", 0),
    named("a bias by distance", "GroupQueryAttention", 0),
    named("values longer than keys", "GroupQueryAttention", 0),
    Case("interleaved pairs", llama, "RotaryEmbedding", 4),
    Case("halves", partial(llama, turn=g.Rotation(FREQUENCIES)), "RotaryEmbedding", 4),
    Case("some numbers", partial(llama, turn=g.Rotation(FREQUENCIES[::2], 1.2)), "RotaryEmbedding", 4),
    named("a rotation of some numbers", "RotaryEmbedding", 4),
    Case("no positions", partial(llama, turn=None), "RotaryEmbedding", 0),
    Case("norms after sums", llama, "SkipSimplifiedLayerNormalization", 4),
    named("norms in groups", "SkipSimplifiedLayerNormalization", 0),
    named("a convolution", "VarlenCausalConvWithState", 1),
    named("a gated delta net", "VarlenCausalConvWithState", 1),
    named("a gated delta net", "GatedDeltaNet", 1),
    named("Mamba-2", "GatedDeltaNet", 1),
    named("a selective scan", "GatedDeltaNet", 1),
    named("norms with a mean and a bias", "SkipSimplifiedLayerNormalization", 0),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}, {case.node}")
def test_nodes_match_float64_in_ragged_batches(case: Case, write_model: Write) -> None:
    context = open_context(write_model(case.variation), case.build, **F32)
    assert kinds(make_lowering(context)).count(case.node) == case.n_nodes
    assert worst_error(context) < 1e-5


def shared_cache(model: Any) -> g.Graph:
    """Return a graph whose second layer reads the keys and values of the first."""
    caches: list[g.Cache] = []

    def attend_shared(parts: Any, _: g.Parameters) -> g.Value:
        caches.append(g.cache(parts[1], parts[2]))
        return g.attention(parts[0], caches[0], SIZE**-0.5)

    return llama(model, attend=attend_shared)


def test_caches_that_layers_share_are_written_once(write_model: Write) -> None:
    context = open_context(write_model(), shared_cache, **F32)
    lowering = make_lowering(context)
    assert len(lowering.states) == 2
    assert "GroupQueryAttention" not in kinds(lowering)
    assert worst_error(context) < 1e-5


def test_reason_for_standard_operators_is_recorded(write_model: Write) -> None:
    lowering = make_lowering(open_context(write_model(), shared_cache))
    cache = next(value for value in lowering.context.graph if isinstance(value, g.Cache))
    assert lowering.chosen[cache] == "ScatterND, because several operators read the cache"


@pytest.mark.parametrize(
    "case",
    [one for one in CASES if one.n_nodes and "norm" not in one.name],
    ids=lambda case: f"{case.name}, {case.node}",
)
def test_provider_without_nodes_gets_standard_operators(
    case: Case, write_model: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = open_context(write_model(case.variation, types="Q8_0"), case.build, **F32)
    monkeypatch.setattr("llamafw_backends.onnx.placement.Support", NoSupport)
    lowering = make_lowering(context, NoSupport([("CPUExecutionProvider", {})], np.dtype(np.float32)))
    standard = {node.op_type for node in lowering.builder.nodes if not node.domain}
    assert {node.op_type for node in lowering.builder.nodes} == standard
    assert worst_error(context) < 1e-5


@pytest.mark.parametrize("kind", ["f16", "f32"])
def test_cache_type_is_float32_where_kernels_convert_others(kind: str, write_model: Write) -> None:
    lowering = make_lowering(open_context(write_model(), cache_type_k=kind, cache_type_v=kind))
    assert {state.dtype for state in lowering.states} == {np.dtype(np.float32)}


def test_products_of_one_row_are_one_node(write_model: Write) -> None:
    lowering = make_lowering(open_context(write_model(types="Q4_1")))
    # of each layer: queries, keys and values; the output of attention; gate and up; down; and the logits
    assert kinds(lowering).count("MatMulNBits") == 2 * 4 + 1


def test_products_of_different_types_stay_apart(write_model: Write) -> None:
    path = write_model(types={"default": "Q4_1", "attn_v": "Q8_0"})
    context = open_context(path, extra={"onnx_activations": "int8"}, **F32)
    assert kinds(make_lowering(context)).count("MatMulNBits") == 2 * 5 + 1
    assert worst_error(context) < 0.1


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q8_0"])
def test_activations_are_floats_unless_int8_is_wanted(kind: str, write_model: Write) -> None:
    path = write_model(types=kind, n_embd=64)
    rounded = worst_error(open_context(path, extra={"onnx_activations": "int8"}, **F32))
    exact = worst_error(open_context(path, **F32))
    assert exact < 1e-5
    assert 1e-4 < rounded < 0.1


def test_codes_of_2_bits_are_widened(write_model: Write) -> None:
    path = write_model(n_ff=256, types={"default": "F32", "ffn_down": "Q2_K"})
    context = open_context(path, **F32)
    bits = [
        attribute.i
        for node in make_lowering(context).builder.nodes
        if node.op_type == "MatMulNBits"
        for attribute in node.attribute
        if attribute.name == "bits"
    ]
    assert bits == [4, 4]
    assert worst_error(context) < 1e-5


def test_context_can_be_filled_beside_a_prompt(write_model: Write) -> None:
    """A node needs room for the steps of the longest slot behind the end of each slot."""
    context = open_context(write_model(), **F32)
    text = [(3 * i + 1) % 300 for i in range(N_CTX)]
    expected = evaluate(context, text)
    backend = OnnxBackend(context)
    backend.forward(batch((1, 0, text[:-1]), outputs=[]))
    last = N_CTX - 1
    actual = backend.forward(batch((0, 0, text[:30]), (1, last, text[last:]), outputs=[29, 30]))
    assert np.abs(actual - expected[[29, last]]).max() < 1e-5 * np.abs(expected).max()
    backend.close()


def test_probe_reports_why_a_node_does_not_run() -> None:
    from llamafw_backends.onnx.grouped_queries import Attend, runs_in_place

    support = Support([("CPUExecutionProvider", {})], np.dtype(np.float32))
    assert not runs_in_place(support, Attend(4, 2, 10, 0.3, np.dtype(np.float32)))
    assert "multiple of 8" in str(support.found)
