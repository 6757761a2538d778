"""Tensor types of plugins: their own codes, or exact unpacking; codes that do not fit are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import all_checkpoints, tensors
from llamafw import BackendContext, BackendOptions, Bytes, Floats, PluginError
from llamafw import graph as g
from llamafw.engine.components import build_graph
from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins
from llamafw.testing import vocabularies
from llamafw.testing.batches import logits
from llamafw.testing.gguf_file import write_gguf
from llamafw.testing.quant_kernels import check_products, check_rows
from llamafw_backends.custom_quant.types import PQ2_0, PTQ1_0
from llamafw_backends.onnx.block_formats import BlockCodes, find_format
from support import ternary
from support.gguf_models import QUANTS
from support.onnx_backend import opened

ROOT = Path(__file__).parents[3]
BLOCK, BYTES = 32, 17
TOKENS = [(7 * i * i + 3 * i + 1) % 100 for i in range(20)]


@dataclass
class Steps:
    """A tensor type: 32 numbers of 4 bits times 1/16 of a byte, less 1."""

    backends: Mapping[str, Any] = field(default_factory=dict)
    name: str = "STEPS"
    type_id: int = 9999
    block_size: int = BLOCK
    type_size: int = BYTES

    def dequantize(self, data: Bytes, shape: Sequence[int]) -> Floats:
        blocks = data.reshape(-1, BYTES).astype(np.float32)
        q = np.stack([blocks[:, 1:] % 16, blocks[:, 1:] // 16], -1).reshape(len(blocks), BLOCK)
        return (q * (blocks[:, :1] / 16) - 1).astype(np.float32).reshape(shape)


def steps_codes(rows: Bytes) -> BlockCodes:
    blocks = rows.reshape(len(rows), -1, BYTES)
    q = np.stack([blocks[..., 1:] & 15, blocks[..., 1:] >> 4], -1).reshape(*blocks.shape[:2], BLOCK)
    scales: Any = blocks[..., 0].astype(np.float32) / 16
    return BlockCodes(4, q, scales, 8 * scales - 1)


def random_blocks(size: int, scale: Any = None) -> Any:
    """Return a function that makes random blocks, whose first two bytes may be a float16 scale."""

    def make(rng: np.random.Generator, n: int) -> Bytes:
        blocks = rng.integers(0, 256, (n, size), np.uint8)
        if scale is not None:
            blocks[:, scale : scale + 2] = rng.uniform(0.1, 1, (n, 1)).astype("<f2").view(np.uint8)
        return blocks

    return make


def test_codes_of_a_plugin_are_used() -> None:
    quant = Steps({"onnx": steps_codes})
    assert find_format(quant) is not None
    check_products(quant, {**QUANTS, "STEPS": quant}, random_blocks(BYTES), opened)
    check_rows(quant, {**QUANTS, "STEPS": quant}, random_blocks(BYTES), opened)


def test_products_show_that_the_codes_are_used() -> None:
    def wrong(rows: Bytes) -> BlockCodes:
        codes = steps_codes(rows)
        return replace(codes, scales=codes.scales * np.float32(1.01))

    quant = Steps({"onnx": wrong})
    with pytest.raises(AssertionError, match="products with STEPS differ"):
        check_products(quant, {**QUANTS, "STEPS": quant}, random_blocks(BYTES), opened)


def test_type_without_codes_is_unpacked() -> None:
    quant = Steps()
    assert find_format(quant) is None
    check_products(quant, {**QUANTS, "STEPS": quant}, random_blocks(BYTES), opened)


def test_type_of_an_example_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples/llamafw-nf4")
    quant = import_module("llamafw_nf4").NF4()
    check_products(quant, {**QUANTS, quant.name: quant}, random_blocks(quant.type_size, 0), opened)


@pytest.mark.parametrize(("quant", "scale"), [(PQ2_0(), 0), (PTQ1_0(), 26)], ids=["PQ2_0", "PTQ1_0"])
def test_ternary_types_are_multiplied_as_codes(quant: Any, scale: int) -> None:
    assert find_format(quant) is not None
    check_products(quant, {**QUANTS, quant.name: quant}, random_blocks(quant.type_size, scale), opened)


@pytest.mark.parametrize("name", ["qwen3", "llama", "qwen35moe"])
def test_folded_models_have_the_logits_of_plain_ones(name: str, tmp_path: Path) -> None:
    """Activations are rotated before matrices whose columns are folded."""
    checkpoint = next(one for one in all_checkpoints() if one.name == name)
    plain, plugins = tensors(checkpoint), Plugins()
    groups = None
    if name == "qwen35moe":
        n_groups = checkpoint.key("ssm.group_count")
        groups = n_groups, checkpoint.key("ssm.time_step_rank") // n_groups
    arrays, keys = ternary.fold(plain, 32, groups=groups)

    models = []
    for path, numbers, more in (("plain.gguf", plain, {}), ("folded.gguf", arrays, keys)):
        metadata = {**vocabularies.gpt2(checkpoint.shapes["token_embd.weight"][0]), **checkpoint.metadata, **more}
        made = {key: (np.ascontiguousarray(array, np.float32), "F32") for key, array in numbers.items()}
        write_gguf(tmp_path / path, checkpoint.architecture, metadata, made)
        models.append(read_gguf(tmp_path / path, plugins.registry("quant"), ()))

    _, expected = g.evaluate(build_graph(models[0], plugins), TOKENS, plain.__getitem__)
    assert expected is not None
    options = BackendOptions(n_ctx=32, n_slots=1, cache_type_k="f32", cache_type_v="f32")
    graph = build_graph(models[1], plugins)
    assert "Hadamard" in g.as_text(graph)
    context = BackendContext(
        models[1], graph, options, plugins.registry("quant"), operators=plugins.registry("operator")
    )
    with opened(context) as backend:
        difference = np.abs(logits(backend, TOKENS) - expected).max()
    assert difference < 1e-4 * np.abs(expected).max()


def changed(**members: Any) -> Any:
    """Return a function whose codes have other attributes."""
    return lambda rows: replace(steps_codes(rows), **members)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (3, "3 for the onnx backend is not a function"),
        ("no_such_module:codes", "'no_such_module:codes' cannot be imported: No module named"),
        ("math:codes", "'math:codes' cannot be imported: module 'math' has no attribute 'codes'"),
        (lambda rows: rows, "returns ndarray, not BlockCodes"),
        (changed(bits=5), "has codes of 5 bits, not of 2, 4, 6 or 8"),
        (changed(bits=2), "returns the code 1[0-5], which has more than 2 bits"),
        (changed(codes=np.zeros((4, 2, 24), np.uint8)), "has blocks of 24 weights, not of a power of two from 16 on"),
        (changed(codes=np.zeros((4, 3, 32), np.uint8)), r"codes uint8 \(4, 3, 32\), not uint8 \(4, 2, 32\)"),
        (changed(codes=np.zeros((4, 2, 32), np.int8)), "returns codes int8"),
        (changed(scales=np.zeros(8, np.float32)), r"returns scales of shape \(8,\), not \(4, 2\)"),
        (changed(offsets=np.zeros((4, 1), np.float32)), r"returns offsets of shape \(4, 1\), not \(4, 2\)"),
    ],
)
def test_invalid_codes_are_refused(found: Any, message: str) -> None:
    with pytest.raises(PluginError, match=f"the tensor type STEPS: .*{message}"):
        read_codes(Steps({"onnx": found}))


def read_codes(quant: Steps) -> BlockCodes:
    """Return the codes of four rows of two blocks."""
    read = find_format(quant)
    assert read is not None
    return read(np.full((4, 2 * BYTES), 0xEE, np.uint8))
