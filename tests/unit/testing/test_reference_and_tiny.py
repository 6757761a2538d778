"""The float64 reference and the tiny models, which other tests rely on, are correct."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llamafw.models.gguf import read_gguf
from llamafw.testing.reference import Reference, kl, reference, top1_agreement
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_plugins.quants.ggml import TYPES

pytestmark = pytest.mark.slow

QUANTS = {quant.name: quant for quant in TYPES}


def test_the_reference_continues_a_text_correctly(real_model: Path) -> None:
    texts = read_gguf(real_model, QUANTS).metadata["tokenizer.ggml.tokens"]
    ids = {text: token for token, text in enumerate(texts)}
    prompt = [ids[text] for text in ("The", "Ġcapital", "Ġof", "ĠFrance", "Ġis")]
    assert texts[reference(real_model).greedy(prompt, 1)[0]] == "ĠParis"


def test_attention_of_the_reference_is_causal(tmp_path: Path) -> None:
    model = Reference(write_tiny_gguf(tmp_path / "model.gguf", biases=True))
    whole = model.logits([5, 6, 7, 8])
    np.testing.assert_allclose(model.logits([5, 6]), whole[:2], rtol=1e-9)
    assert whole.shape == (4, model.n_vocab)
    assert np.abs(model.logits([9, 6])[1] - whole[1]).max() > 0.01  # it depends on earlier tokens


def test_equal_tokens_have_equal_logits_at_all_positions(tmp_path: Path) -> None:
    """If all tokens are equal, all values are equal too, and the weights of attention do not matter."""
    model = Reference(write_tiny_gguf(tmp_path / "model.gguf"))
    logits = model.logits([9] * 5)
    np.testing.assert_allclose(logits, np.broadcast_to(logits[0], logits.shape), rtol=1e-9)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
def test_shared_kv_heads_equal_repeated_ones(tmp_path: Path, heads: tuple[int, int]) -> None:
    n_head, n_head_kv = heads
    shared = Reference(write_tiny_gguf(tmp_path / "shared.gguf", n_head=n_head, n_head_kv=n_head_kv, n_layer=1))
    repeated = {}
    for role in ("attn_k", "attn_v"):
        name = f"blk.0.{role}.weight"
        kv_heads = shared.weight(name).reshape(n_head_kv, 16, 64)
        repeated[name] = np.repeat(kv_heads, n_head // n_head_kv, axis=0).reshape(64, 64)
    for name in (*repeated, *("token_embd.weight", "output_norm.weight", "blk.0.attn_norm.weight")):
        repeated.setdefault(name, shared.weight(name))
    for role in ("attn_q", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"):
        repeated[f"blk.0.{role}.weight"] = shared.weight(f"blk.0.{role}.weight")
    file = write_tiny_gguf(tmp_path / "repeated.gguf", n_head=n_head, n_head_kv=n_head, n_layer=1, tensors=repeated)
    np.testing.assert_allclose(Reference(file).logits([5, 6, 7]), shared.logits([5, 6, 7]), rtol=1e-9)


@pytest.mark.parametrize("tokenizer", ["gpt2", "llama"])
def test_tiny_models_depend_only_on_their_seed(tmp_path: Path, tokenizer: str) -> None:
    def content(seed: int) -> bytes:
        path = tmp_path / f"{seed}.gguf"
        write_tiny_gguf(path, types="Q4_K", n_embd=256, n_ff=256, n_layer=1, seed=seed, tokenizer=tokenizer)  # type: ignore[arg-type]  # a literal
        return path.read_bytes()

    assert content(1) == content(1)
    assert content(1) != content(2)


def test_kl_and_top1_agreement_equal_values_computed_by_hand() -> None:
    p = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])) + 7  # adding a constant to all logits changes nothing
    q = np.log(np.array([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]]))
    assert kl(p, p) == pytest.approx(0, abs=1e-15)
    assert kl(p, q) == pytest.approx((0.5 * np.log(2) - 0.25 * np.log(2)) / 2)
    assert top1_agreement(p, q) == 0.5


def test_tiny_models_can_leave_tensors_out_and_name_an_architecture(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = {"blk.0.attn_norm.weight": None, "blk.0.attn_norm.bias": None}
    path = write_tiny_gguf(
        tmp_path / "model.gguf", n_layer=1, metadata={"general.architecture": "mine"}, tensors=tensors
    )
    model = read_gguf(path, QUANTS)
    assert model.metadata["general.architecture"] == "mine"
    assert "blk.0.ffn_norm.weight" in model.tensors
    assert not set(tensors) & set(model.tensors)
    assert not caplog.records  # the gguf package warns of a key that is written twice
