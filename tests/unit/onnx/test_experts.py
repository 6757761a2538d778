"""Mixtures of experts become QMoE where their weights and functions allow it, otherwise a product per expert."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType
from gguf.quants import quantize

from checkpoints import all_checkpoints, tensors
from llamafw import graph as g
from llamafw.testing import vocabularies
from llamafw.testing.gguf_file import write_gguf
from support.onnx_nodes import F32, kinds, make_lowering, open_context, worst_error

DECODERS = [one for one in all_checkpoints() if one.output == "logits"]
CHECKPOINTS = {one.name: one for one in DECODERS if any("_exps" in name for name in one.shapes)}
OTHERS = {"gemma4-experts", "gemma4-experts-split", "nemotron_h_moe", "nemotron_h_moe-latent"}
OTHERS |= {"llama4", "llama4-maverick"}
"""Checkpoints whose experts have another function than SwiGLU, or weighted inputs."""

Write = Callable[..., Path]


@pytest.fixture
def write_experts(tmp_path: Path) -> Write:
    """Return a function that writes a checkpoint with experts of a type, and with some metadata replaced."""

    def write(name: str, kind: str, **replaced: Any) -> Path:
        one = CHECKPOINTS[name]
        arrays: dict[str, Any] = {}
        for key, array in tensors(one).items():
            if key.endswith("_exps.weight"):
                arrays[key] = (quantize(array, GGMLQuantizationType[kind]), kind)
            else:
                arrays[key] = (array, "F32")
        path = tmp_path / "model.gguf"
        metadata = {**vocabularies.gpt2(one.shapes["token_embd.weight"][0]), **one.metadata}
        metadata |= {f"{one.architecture}.{key}": value for key, value in replaced.items()}
        write_gguf(path, one.architecture, metadata, arrays)
        return path

    return write


def n_mixtures(graph: g.Graph) -> int:
    return sum(isinstance(value, g.WeightedSum) for value in graph)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_experts_of_4_bits_match_float64(name: str, write_experts: Write) -> None:
    context = open_context(write_experts(name, "Q4_0"), **F32)
    n = n_mixtures(context.graph)
    assert n
    assert kinds(make_lowering(context)).count("QMoE") == (0 if name in OTHERS else n)
    assert worst_error(context) < 1e-4


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "MXFP4"])
def test_experts_with_int8_activations_are_close_to_float64(kind: str, write_experts: Write) -> None:
    every_expert = CHECKPOINTS["gpt-oss"].key("expert_count")  # otherwise rounding changes which ones are chosen
    rounded = {"onnx_activations": "int8"}
    context = open_context(write_experts("gpt-oss", kind, expert_used_count=every_expert), extra=rounded, **F32)
    assert kinds(make_lowering(context)).count("QMoE") == n_mixtures(context.graph)
    assert 1e-4 < worst_error(context) < 0.1


@pytest.mark.parametrize(("kind", "reason"), [("Q8_0", "round activations"), ("Q4_1", "multiples of a scale")])
def test_experts_without_node_are_exact_products(kind: str, reason: str, write_experts: Write) -> None:
    context = open_context(write_experts("qwen3moe", kind), **F32)
    lowering = make_lowering(context)
    assert "QMoE" not in kinds(lowering)
    assert worst_error(context) < 1e-4
    product = next(value for value in context.graph if isinstance(value, g.ExpertLinear))
    assert reason in lowering.chosen[product]
