"""Logits are close to the float64 reference for all formats, instruction sets and shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g
from llamafw.testing.batches import logits
from llamafw.testing.reference import Reference, kl, reference, top1_agreement
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_backends.numba_cpu.cpu import features
from llamafw_backends.numba_cpu.formats import BUILT_IN, FORMATS
from llamafw_backends.numba_cpu.instruction_sets import INSTRUCTION_SETS
from support.numba_backend import open_backend
from support.prose import PROSE, read_tokenizer

pytestmark = pytest.mark.slow

UNKNOWN_TO_GGUF = ("Q1_0", "Q2_0")  # the reference cannot read them; test_formats.py has others
TOKENS = [int(t) for t in np.random.default_rng(1).integers(0, 300, 40)]


def available_sets() -> list[str]:
    """Return the instruction sets that this processor has."""
    return [name for name, isa in INSTRUCTION_SETS.items() if isa.available()]


def with_rotation(**fields: Any) -> Callable[[g.Graph], g.Graph]:
    """Return a function that changes the rotations of a graph."""

    def change(value: g.Value) -> g.Value:
        return g.rope(value.x, replace(value.rotation, **fields)) if isinstance(value, g.Rope) else value

    return lambda graph: g.rewrite(graph, change)


def check_logits(path: Path, *, tolerance: float = 0.01, reference: Reference | None = None, **options: Any) -> None:
    """Compare logits with the reference.

    Their standard deviation is about 3. Activations of 15 bits cause differences below 0.01.
    """
    expected = (reference or Reference(path)).logits(TOKENS)
    with open_backend(path, cache_type_k="f32", cache_type_v="f32", **options) as backend:
        got = logits(backend, TOKENS, [17, 1, 2, 20])
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < tolerance


@pytest.mark.parametrize("kind", [one.name for one in BUILT_IN if one.name not in UNKNOWN_TO_GGUF])
def test_models_of_each_type_match_the_reference(kind: str, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", types=kind, n_embd=256, n_ff=256, n_head=4, n_layer=1)
    check_logits(path, tolerance=1e-3 if kind in ("F32", "F16", "BF16") else 0.01)


def test_instruction_sets_agree_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", types={"default": "Q4_1", "attn_v": "Q8_0", "ffn_down": "Q4_0"})
    sets = available_sets()
    assert "plain" in sets  # every processor has it
    if features() & {"avx2", "avx512vnni"}:
        assert len(sets) >= 2

    by_set = {}
    for name in sets:
        monkeypatch.setenv("LLAMAFW_ISA", name)
        with open_backend(path) as backend:
            assert backend.describe()["isa"] == name
            by_set[name] = logits(backend, TOKENS)

    for name in sets:
        np.testing.assert_array_equal(by_set[name], by_set["plain"], err_msg=name)


def test_types_without_a_format_are_unpacked_to_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FORMATS, "Q5_1")
    path, lines = write_tiny_gguf(tmp_path / "m.gguf", types="Q5_1"), list[str]()
    expected = Reference(path).logits(TOKENS)
    with open_backend(path, lines, cache_type_k="f32", cache_type_v="f32") as backend:
        np.testing.assert_allclose(logits(backend, TOKENS), expected, atol=1e-3)
    assert [line for line in lines if "Q5_1 has no kernel: its weights are unpacked to float32" in line]


def test_tensor_types_can_be_mixed(tmp_path: Path) -> None:
    kinds = {
        "default": "Q4_1",
        "token_embd": "Q8_0",
        "attn_q": "Q8_0",
        "attn_k": "F16",
        "attn_v": "Q4_0",
        "ffn_gate": "BF16",
        "ffn_up": "Q4_1",
        "ffn_down": "F32",
        "output": "F16",
    }
    check_logits(write_tiny_gguf(tmp_path / "m.gguf", types=kinds, tied=False))


@pytest.mark.parametrize(
    "shape",
    [
        {"n_embd_head": 32, "n_head": 2, "n_head_kv": 2},
        {"n_embd_head": 80, "n_head": 2, "n_head_kv": 1},
        {"n_embd_head": 96, "n_head": 4, "n_head_kv": 1},
        {"n_embd_head": 128, "n_head": 3, "n_head_kv": 3},
        {"n_head": 6, "n_head_kv": 2, "n_embd": 192},
        {"n_head": 14, "n_head_kv": 2, "n_embd": 224},
        {"n_head": 9, "n_head_kv": 1, "n_embd": 288},
        {"n_head": 22, "n_head_kv": 2, "n_embd": 352},
        {"n_vocab": 323},
        {"n_vocab": 321, "tied": False, "types": "Q8_0"},
        {"n_vocab": 333, "types": "Q4_0"},
        {"n_ff": 96, "n_embd": 96, "n_head": 6, "types": "Q4_1"},
        {"n_embd": 64, "n_head": 2, "n_head_kv": 1, "n_embd_head": 256, "types": "F16"},  # few rows, many columns
        {"n_embd": 64, "n_head": 8, "n_head_kv": 2, "n_embd_head": 128},
        {"n_embd": 128, "n_ff": 1024, "n_head": 4, "n_head_kv": 1, "n_embd_head": 128, "types": "BF16"},
    ],
    ids=str,
)
def test_shapes_match_the_reference(shape: dict[str, Any], tmp_path: Path) -> None:
    check_logits(write_tiny_gguf(tmp_path / "m.gguf", **shape), n_threads=2)


def test_biases_are_added(tmp_path: Path) -> None:
    check_logits(write_tiny_gguf(tmp_path / "m.gguf", biases=True, types="Q8_0"))


def test_both_orders_of_rope_pairs_give_the_same_logits(tmp_path: Path) -> None:
    """A model with pairs (i, i + n/2), as in NeoX files, has the logits of the same model with adjacent pairs."""
    path = write_tiny_gguf(tmp_path / "pairs.gguf")
    expected = Reference(path)

    head = np.concatenate([np.arange(0, 16, 2), np.arange(1, 16, 2)])
    halves = {}
    for layer in range(2):
        for role in ("attn_q", "attn_k"):
            name = f"blk.{layer}.{role}.weight"
            weight = expected.weight(name)
            halves[name] = weight.reshape(-1, 16, weight.shape[1])[:, head].reshape(weight.shape)

    other = write_tiny_gguf(tmp_path / "halves.gguf", tensors=halves)
    check_logits(other, reference=expected, change=with_rotation(interleaved=False))


def test_partial_rotation_matches_the_reference(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", n_embd_head=32, n_head=2, n_head_kv=1)
    frequencies = np.array([1.0, 0.3, 0.1, 0.03, 0.01])  # they rotate ten of 32 dimensions
    expected = Reference(path, frequencies=np.concatenate([frequencies, np.zeros(11)]))
    check_logits(path, reference=expected, change=with_rotation(frequencies=frequencies))


def test_rope_magnitude_matches_the_reference(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", n_embd_head=32, n_head=2, n_head_kv=1)
    check_logits(path, reference=Reference(path, magnitude=1.2), change=with_rotation(magnitude=1.2))


def test_float16_caches_are_close_to_the_reference(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf")
    expected = Reference(path).logits(TOKENS)
    for keys, values in (("f16", "f16"), ("f32", "f16"), ("f16", "f32")):
        with open_backend(path, cache_type_k=keys, cache_type_v=values) as backend:
            assert np.abs(logits(backend, TOKENS) - expected).max() < 0.02


def test_default_model_matches_the_reference(real_model: Path) -> None:
    """Over at least 256 tokens, the mean KL divergence is small and the likeliest token the same."""
    with open_backend(real_model, n_ctx=512, n_threads=2) as backend:
        tokens = read_tokenizer(real_model).encode(PROSE)[:300]
        assert len(tokens) >= 256
        got = logits(backend, tokens)

    expected = reference(real_model).logits(tokens)
    assert kl(expected, got) < 1e-4
    assert top1_agreement(expected, got) >= 0.99
