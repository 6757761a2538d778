"""The tests' own references must be right first: the float64 forward pass and the tiny models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llamafw.models.gguf import read_gguf
from llamafw_plugins.quants.ggml import TYPES
from support.reference import Reference, kl, reference, top1_agreement
from support.tiny import write_tiny_gguf

QUANTS = {quant.name: quant for quant in TYPES}


def test_the_reference_knows_the_capital_of_france(real_model: Path) -> None:
    texts = read_gguf(real_model, QUANTS).metadata["tokenizer.ggml.tokens"]
    number = {text: i for i, text in enumerate(texts)}
    prompt = [number[text] for text in ("The", "Ġcapital", "Ġof", "ĠFrance", "Ġis")]
    assert texts[reference(real_model).greedy(prompt, 1)[0]] == "ĠParis"


def test_the_reference_looks_back_only(tmp_path: Path) -> None:
    model = Reference(write_tiny_gguf(tmp_path / "model.gguf", biases=True))
    whole = model.logits([5, 6, 7, 8])
    np.testing.assert_allclose(model.logits([5, 6]), whole[:2], rtol=1e-9)
    assert whole.shape == (4, model.n_vocab)
    assert np.abs(model.logits([9, 6])[1] - whole[1]).max() > 0.01  # but it does look back


def test_rotary_attention_sees_distances_not_places(tmp_path: Path) -> None:
    """The same token everywhere: every value is the same, so where it stands cannot matter."""
    model = Reference(write_tiny_gguf(tmp_path / "model.gguf"))
    logits = model.logits([9] * 5)
    np.testing.assert_allclose(logits, np.broadcast_to(logits[0], logits.shape), rtol=1e-9)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
def test_the_reference_shares_heads_as_repeating_them_would(tmp_path: Path, heads: tuple[int, int]) -> None:
    n_head, n_head_kv = heads
    shared = Reference(write_tiny_gguf(tmp_path / "shared.gguf", n_head=n_head, n_head_kv=n_head_kv, n_layer=1))
    repeated = {}
    for role in ("attn_k", "attn_v"):
        name = f"blk.0.{role}.weight"
        heads_of = shared.weight(name).reshape(n_head_kv, 16, 64)
        repeated[name] = np.repeat(heads_of, n_head // n_head_kv, axis=0).reshape(64, 64)
    for name in (*repeated, *("token_embd.weight", "output_norm.weight", "blk.0.attn_norm.weight")):
        repeated.setdefault(name, shared.weight(name))
    for role in ("attn_q", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"):
        repeated[f"blk.0.{role}.weight"] = shared.weight(f"blk.0.{role}.weight")
    file = write_tiny_gguf(tmp_path / "repeated.gguf", n_head=n_head, n_head_kv=n_head, n_layer=1, tensors=repeated)
    np.testing.assert_allclose(Reference(file).logits([5, 6, 7]), shared.logits([5, 6, 7]), rtol=1e-9)


@pytest.mark.parametrize("tokenizer", ["gpt2", "llama"])
def test_tiny_models_are_the_same_each_time(tmp_path: Path, tokenizer: str) -> None:
    def content(seed: int) -> bytes:
        path = tmp_path / f"{seed}.gguf"
        write_tiny_gguf(path, types="Q4_K", n_embd=256, n_ff=256, n_layer=1, seed=seed, tokenizer=tokenizer)  # type: ignore[arg-type]  # a literal
        return path.read_bytes()

    assert content(1) == content(1)
    assert content(1) != content(2)


def test_kl_and_agreement() -> None:
    p = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])) + 7  # a shift of all logits means nothing
    q = np.log(np.array([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]]))
    assert kl(p, p) == pytest.approx(0, abs=1e-15)
    assert kl(p, q) == pytest.approx((0.5 * np.log(2) - 0.25 * np.log(2)) / 2)
    assert top1_agreement(p, q) == 0.5
