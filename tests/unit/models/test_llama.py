"""The llama architecture: a valid model is described correctly, any other is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g
from llamafw import ModelError
from llamafw.models.gguf import read_gguf
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_plugins.architectures.llama import llama
from llamafw_plugins.quants.ggml import TYPES

QUANTS = {quant.name: quant for quant in TYPES}


def describe_tiny(path: Path, **options: Any) -> g.Graph:
    return llama(read_gguf(write_tiny_gguf(path / "model.gguf", **options), QUANTS))


def attentions(graph: g.Graph) -> list[g.Attention]:
    return [value for value in graph if isinstance(value, g.Attention)]


def frequencies(graph: g.Graph) -> Any:
    """Return the rotary frequencies of the first layer."""
    return next(value.rotation.frequencies for value in graph if isinstance(value, g.Rope))


def biases(graph: g.Graph) -> list[str]:
    """Return the names of all biases."""
    return [value.bias.name for value in graph if isinstance(value, g.Linear) and value.bias is not None]


def test_the_default_model_is_described(real_model: Path) -> None:
    graph = llama(read_gguf(real_model, QUANTS))
    assert (graph.n_vocab, graph.n_ctx_train, graph.n_embd) == (49152, 8192, 576)
    layers = attentions(graph)
    assert len(layers) == 30
    for attention in layers:
        assert (attention.q.shape, attention.past.k.shape, attention.past.v.shape) == ((9, 64), (3, 64), (3, 64))
        assert attention.scale == 0.125

    rotations = [value.rotation for value in graph if isinstance(value, g.Rope)]
    assert all(rotation.interleaved and rotation.magnitude == 1 for rotation in rotations)
    np.testing.assert_allclose(frequencies(graph), [100_000 ** (-i / 32) for i in range(32)])
    assert [value.eps for value in graph if isinstance(value, g.RMSNorm)] == [pytest.approx(1e-5)] * 61
    activations = [value for value in graph if isinstance(value, g.Activation)]
    assert {(value.function, value.shape) for value in activations} == {("silu", (1536,))}
    assert isinstance(graph.logits, g.Linear)
    assert graph.logits.weight.name == "token_embd.weight"
    assert biases(graph) == []


def test_missing_metadata_has_defaults(tmp_path: Path) -> None:
    missing = ["attention.head_count_kv", "rope.dimension_count", "rope.freq_base", "vocab_size"]
    graph = describe_tiny(tmp_path, n_head_kv=4, metadata={f"llama.{key}": None for key in missing})
    assert [(value.q.shape, value.past.k.shape) for value in attentions(graph)] == [((4, 16), (4, 16))] * 2
    np.testing.assert_allclose(frequencies(graph), [10_000 ** (-i / 8) for i in range(8)])


def test_the_head_size_may_differ_from_embedding_size_by_heads(tmp_path: Path) -> None:
    graph = describe_tiny(tmp_path, n_embd_head=32)
    assert [(value.q.shape, value.scale) for value in attentions(graph)] == [((4, 32), 1 / math.sqrt(32))] * 2
    assert len(frequencies(graph)) == 16


def test_output_and_biases_may_have_tensors(tmp_path: Path) -> None:
    graph = describe_tiny(tmp_path, tied=False, biases=True)
    assert isinstance(graph.logits, g.Linear)
    assert graph.logits.weight.name == "output.weight"
    roles = ("attn_q", "attn_k", "attn_v", "attn_output")
    assert sorted(biases(graph)) == sorted(f"blk.{i}.{role}.bias" for i in range(2) for role in roles)


def test_values_per_layer_must_be_equal(tmp_path: Path) -> None:
    graph = describe_tiny(tmp_path, metadata={"llama.attention.head_count_kv": [2, 2]})
    assert [value.past.k.shape for value in attentions(graph)] == [(2, 16)] * 2
    with pytest.raises(ModelError, match=r"llama\.attention\.head_count_kv differs from layer to layer"):
        describe_tiny(tmp_path, metadata={"llama.attention.head_count_kv": [2, 4]})


@pytest.mark.parametrize(
    "key",
    [
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.layer_norm_rms_epsilon",
    ],
)
def test_a_missing_key_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ModelError, match=rf"model\.gguf: llama\.{key} is missing"):
        describe_tiny(tmp_path, metadata={f"llama.{key}": None})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("embedding_length", 0, "llama.embedding_length is 0; it must be a whole number from 1"),
        ("embedding_length", "64", "llama.embedding_length is '64'; it must be a whole number"),
        ("block_count", 2**32 - 1, "llama.block_count is 4294967295; it must be a whole number from 1 to 2147483647"),
        ("block_count", 3, "the tensor 'blk.2.attn_norm.weight' is missing"),
        ("block_count", 1, "the tensor 'blk.1.attn_k.weight' is not part of the llama architecture"),
        ("context_length", True, "llama.context_length is True; it must be a whole number"),
        ("attention.head_count", 3, "3 heads cannot be divided evenly among 2 KV heads"),
        ("attention.head_count", 1000, "llama.attention.key_length is 0; it must be a whole number"),
        ("attention.value_length", 8, "cannot be divided into 2 heads of 8 numbers"),
        ("attention.layer_norm_rms_epsilon", -1.0, "layer_norm_rms_epsilon is -1.0; it must be a finite"),
        ("attention.layer_norm_rms_epsilon", math.nan, "it must be a finite number above 0"),
        (
            "rope.dimension_count",
            8,
            "llama.rope.dimension_count differs from the head size, 16, which is not supported",
        ),
        ("rope.freq_base", 0.0, "llama.rope.freq_base is 0.0; it must be a finite number above 0"),
        ("expert_count", 8, "llama.expert_used_count is missing"),
    ],
)
def test_an_invalid_value_is_refused(tmp_path: Path, key: str, value: Any, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        describe_tiny(tmp_path, metadata={f"llama.{key}": value})
    assert message in str(caught.value)


ROLES = (
    "attn_norm",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "ffn_norm",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
)
NAMES = ("token_embd.weight", "output_norm.weight", *(f"blk.1.{role}.weight" for role in ROLES))


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_tensor_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match=f"{name}' is missing"):
        describe_tiny(tmp_path, tensors={name: None})


@pytest.mark.parametrize("name", [*NAMES, "output.weight"])
def test_a_tensor_of_another_shape_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError) as caught:
        describe_tiny(tmp_path, tied=False, tensors={name: np.zeros((4, 4), np.float32)})
    assert f"{name!r} has" in str(caught.value)


def test_a_bias_may_be_in_some_layers_only(tmp_path: Path) -> None:
    graph = describe_tiny(tmp_path, biases=True, tensors={"blk.1.attn_k.bias": None})
    assert "blk.0.attn_k.bias" in biases(graph)
    assert "blk.1.attn_k.bias" not in biases(graph)


@pytest.mark.parametrize("name", ["blk.0.ffn_up.bias", "output.bias"])
def test_a_bias_of_wrong_shape_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError) as caught:
        describe_tiny(tmp_path, tied=False, tensors={name: np.zeros(4, np.float32)})
    assert f"{name!r} has shape (4,)" in str(caught.value)


def test_the_output_may_have_a_bias(tmp_path: Path) -> None:
    n_vocab = describe_tiny(tmp_path, tied=False).n_vocab
    graph = describe_tiny(tmp_path, tied=False, tensors={"output.bias": np.zeros(n_vocab, np.float32)})
    assert biases(graph) == ["output.bias"]


@pytest.mark.parametrize("name", ["blk.0.attn_q_norm.weight", "blk.2.attn_q.bias"])
def test_an_unknown_tensor_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError) as caught:
        describe_tiny(tmp_path, tensors={name: np.zeros(4, np.float32)})
    assert f"{name!r} is not part of the llama architecture" in str(caught.value)


def test_frequencies_of_old_converters_are_ignored(tmp_path: Path) -> None:
    graph = describe_tiny(tmp_path, tensors={"blk.0.attn_rot_embd.weight": np.zeros(8, np.float32)})
    assert g.as_text(graph) == g.as_text(describe_tiny(tmp_path))


def test_embedding_and_vocabulary_must_have_the_same_size(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'token_embd\.weight' has 10 rows for \d+ tokens"):
        describe_tiny(tmp_path, tensors={"token_embd.weight": np.zeros((10, 64), np.float32)})
