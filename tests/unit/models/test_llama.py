"""The llama architecture: a valid model is described correctly, any other is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import Decoder, ModelError
from llamafw.graph import as_decoder
from llamafw.models.gguf import read_gguf
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_plugins.architectures.llama import llama
from llamafw_plugins.quants.ggml import TYPES

QUANTS = {quant.name: quant for quant in TYPES}


def describe_tiny(path: Path, **options: Any) -> Decoder:
    return as_decoder(llama(read_gguf(write_tiny_gguf(path / "model.gguf", **options), QUANTS)))


def test_the_default_model_is_described(real_model: Path) -> None:
    decoder = as_decoder(llama(read_gguf(real_model, QUANTS)))
    facts = {
        "n_vocab": 49152,
        "n_ctx_train": 8192,
        "n_embd": 576,
        "n_layer": 30,
        "n_head": 9,
        "n_head_kv": 3,
        "n_embd_head": 64,
        "n_ff": 1536,
        "rope_interleaved": True,
        "rope_magnitude": 1.0,
        "attention_scale": 0.125,
        "activation": "silu",
    }
    assert {name: getattr(decoder, name) for name in facts} == facts
    assert decoder.norm_eps == pytest.approx(1e-5)
    np.testing.assert_allclose(decoder.rope_frequencies, [100_000 ** (-i / 32) for i in range(32)])
    assert decoder.tensors["output"] == "token_embd.weight"
    assert not any(role.endswith("_bias") for role in decoder.tensors)


def test_missing_metadata_has_defaults(tmp_path: Path) -> None:
    missing = ["attention.head_count_kv", "rope.dimension_count", "rope.freq_base", "vocab_size"]
    decoder = describe_tiny(tmp_path, n_head_kv=4, metadata={f"llama.{key}": None for key in missing})
    assert (decoder.n_head, decoder.n_head_kv, decoder.n_embd_head) == (4, 4, 16)
    np.testing.assert_allclose(decoder.rope_frequencies, [10_000 ** (-i / 8) for i in range(8)])


def test_the_head_size_may_differ_from_embedding_size_by_heads(tmp_path: Path) -> None:
    decoder = describe_tiny(tmp_path, n_embd_head=32)
    assert decoder.n_embd_head == 32
    assert decoder.attention_scale == 1 / math.sqrt(32)
    assert len(decoder.rope_frequencies) == 16


def test_output_and_biases_may_have_tensors(tmp_path: Path) -> None:
    tensors = describe_tiny(tmp_path, tied=False, biases=True).tensors
    assert tensors["output"] == "output.weight"
    assert tensors["attn_q_bias"] == "blk.{layer}.attn_q.bias"
    assert {role for role in tensors if role.endswith("_bias")} == {
        "attn_q_bias",
        "attn_k_bias",
        "attn_v_bias",
        "attn_output_bias",
    }


def test_values_per_layer_must_be_equal(tmp_path: Path) -> None:
    assert describe_tiny(tmp_path, metadata={"llama.attention.head_count_kv": [2, 2]}).n_head_kv == 2
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


def test_a_bias_must_be_in_every_layer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="layer 1 differs from layer 0"):
        describe_tiny(tmp_path, biases=True, tensors={"blk.1.attn_k.bias": None})


@pytest.mark.parametrize("name", ["blk.0.ffn_up.bias", "output.bias"])
def test_a_bias_of_wrong_shape_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError) as caught:
        describe_tiny(tmp_path, tied=False, tensors={name: np.zeros(4, np.float32)})
    assert f"{name!r} has shape (4,)" in str(caught.value)


def test_a_bias_that_backends_cannot_add_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the operator Linear at the output is not supported"):
        describe_tiny(tmp_path, tied=False, tensors={"output.bias": np.zeros(301, np.float32)})


@pytest.mark.parametrize("name", ["blk.0.attn_q_norm.weight", "blk.2.attn_q.bias"])
def test_an_unknown_tensor_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError) as caught:
        describe_tiny(tmp_path, tensors={name: np.zeros(4, np.float32)})
    assert f"{name!r} is not part of the llama architecture" in str(caught.value)


def test_frequencies_of_old_converters_are_ignored(tmp_path: Path) -> None:
    assert describe_tiny(tmp_path, tensors={"blk.0.attn_rot_embd.weight": np.zeros(8, np.float32)}).n_layer == 2


def test_embedding_and_vocabulary_must_have_the_same_size(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'token_embd\.weight' has 10 rows for \d+ tokens"):
        describe_tiny(tmp_path, tensors={"token_embd.weight": np.zeros((10, 64), np.float32)})
