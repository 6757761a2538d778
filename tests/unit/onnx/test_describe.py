"""The description of an ONNX model says what each operator of the graph became, and why."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from checkpoints import all_checkpoints
from llamafw import Model
from llamafw import graph as g
from llamafw.testing.graphs import attend, llama
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_backends.onnx.describe import describe_nodes
from support.onnx_nodes import NoSupport, kinds, make_lowering, open_context
from support.onnx_table import COLUMNS, open_tiny, row, support


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "model.gguf", types="Q4_1")


def test_description_has_a_line_for_each_operator(path: Path) -> None:
    context = open_context(path, llama)
    lines = describe_nodes(make_lowering(context)).splitlines()
    values = list(context.graph)
    assert [line.split()[0] for line in lines[: len(values)]] == [f"%{i}" for i in range(len(values))]
    assert lines[len(values)] == ""


def test_description_names_nodes_and_choices(path: Path) -> None:
    text = describe_nodes(make_lowering(open_context(path, llama)))
    assert "MatMulNBits and MatMul with offsets, Q4_1 in 4 bits, activations in float32" in text
    assert "(part of the product before)" in text
    assert "(SkipSimplifiedLayerNormalization, with the norm)" in text
    assert "(GroupQueryAttention)" in text


def test_description_says_why_there_is_no_better_node(path: Path) -> None:
    def build(model: Model) -> g.Graph:
        return llama(model, attend=lambda parts, _: attend(*parts, alibi=(0.5,) * 4))

    assert "ScatterND, because scores decrease with distance" in describe_nodes(
        make_lowering(open_context(path, build))
    )
    support = NoSupport([("CPUExecutionProvider", {})], make_lowering(open_context(path, build)).builder.float_type)
    text = describe_nodes(make_lowering(open_context(path, llama), support))
    assert "because the provider has no MatMulNBits for it" in text
    assert "because the provider has no PagedAttention or GroupQueryAttention for it" in text
    assert "because the provider has no RotaryEmbedding for it" in text


def test_counts_are_those_of_the_model(path: Path) -> None:
    lowering = make_lowering(open_context(path, llama))
    lines = describe_nodes(lowering).splitlines()
    total = lines.index("") + 1
    assert lines[total].split() == [str(len(kinds(lowering))), "nodes"]
    counts = {kind: int(count) for count, kind in (line.split() for line in lines[total + 1 :])}
    assert counts == {kind: kinds(lowering).count(kind) for kind in set(kinds(lowering))}
    assert counts["GroupQueryAttention"] == 2


def test_page_has_the_best_nodes_of_every_model_on_the_cpu(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs/onnx.md").read_text("utf-8")
    listed: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    architectures = {one.name: one.architecture for one in all_checkpoints()}
    for line in text.partition(" | ".join(COLUMNS))[2].partition("\n\n")[0].splitlines()[2:]:
        name, *cells = (cell.strip() for cell in line[1:-1].split("|"))
        listed[architectures[name]].add(tuple("cpu" if "cpu" in cell else cell and "none" for cell in cells))

    found: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    cpu = {"cpu": support("cpu")}
    for one in all_checkpoints():
        found[one.architecture].add(tuple(row(open_tiny(one, tmp_path), cpu)))
    assert listed == found
