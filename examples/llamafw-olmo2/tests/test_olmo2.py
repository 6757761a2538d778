"""Tests of a tiny model against an independent float64 forward pass, and of models that are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from llamafw import ModelError
from llamafw.testing.conformance import ArchitectureConformance, PluginConformance

N_EMBD, N_HEAD, N_KV, SIZE, N_LAYER, WINDOW = 64, 4, 2, 16, 4, 8
KEYS = {
    "general.architecture": "olmo2",
    "olmo2.block_count": N_LAYER,
    "olmo2.context_length": 128,
    "olmo2.embedding_length": N_EMBD,
    "olmo2.feed_forward_length": 128,
    "olmo2.attention.head_count": N_HEAD,
    "olmo2.attention.head_count_kv": N_KV,
    "olmo2.rope.freq_base": 500_000.0,
    "olmo2.attention.layer_norm_rms_epsilon": 1e-6,
}
NORMS = {"attn_q_norm": N_EMBD, "attn_k_norm": N_KV * SIZE, "post_attention_norm": N_EMBD, "post_ffw_norm": N_EMBD}
TOKENS = [70, 75, 80, 85, 90, 300, 20, 30, 40, 50, 60, 70]


def tiny_olmo2(write_model: Callable[..., Path]) -> Path:
    """Write a tiny Llama file with the keys and the norms of olmo2."""
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {}
    for i in range(N_LAYER):
        tensors |= {f"blk.{i}.attn_norm.weight": None, f"blk.{i}.ffn_norm.weight": None}
        tensors |= {f"blk.{i}.{name}.weight": rng.uniform(0.5, 1.5, n).astype("f4") for name, n in NORMS.items()}
    return write_model(n_layer=N_LAYER, tied=False, metadata=KEYS, tensors=tensors)


def changed(write_model: Callable[..., Path], keys: dict[str, Any], tensors: dict[str, Any]) -> Callable[..., Path]:
    """Return a ``write_model`` that changes some metadata and tensors."""

    def write(metadata: dict[str, Any], **options: Any) -> Path:
        return write_model(**options | {"metadata": metadata | keys, "tensors": options["tensors"] | tensors})

    return write


def logits(path: Path, window: int) -> Any:
    """Return the logits of all tokens, ``(n_tokens, n_vocab)`` float64; a window of 0 is none."""
    weights = {tensor.name: tensor.data.astype(np.float64) for tensor in GGUFReader(path).tensors}
    n = len(TOKENS)
    age = np.arange(n)[:, None] - np.arange(n)

    def norm(x: Any, name: str) -> Any:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weights[name]

    def rotated(x: Any) -> Any:
        """Rotate the halves of each head: pair i is (i, i + 8)."""
        rotation = np.exp(1j * np.outer(np.arange(n), 500_000.0 ** (-np.arange(0, SIZE, 2) / SIZE)))[:, None]
        y = (x[..., : SIZE // 2] + 1j * x[..., SIZE // 2 :]) * rotation
        return np.concatenate([y.real, y.imag], -1)

    x = weights["token_embd.weight"][TOKENS]
    for layer in range(N_LAYER):
        prefix = f"blk.{layer}."
        q, k, v = (x @ weights[f"{prefix}attn_{role}.weight"].T for role in "qkv")
        q, k = norm(q, f"{prefix}attn_q_norm.weight"), norm(k, f"{prefix}attn_k_norm.weight")
        q, k, v = rotated(q.reshape(n, N_HEAD, SIZE)), rotated(k.reshape(n, N_KV, SIZE)), v.reshape(n, N_KV, SIZE)
        k, v = (np.repeat(part, N_HEAD // N_KV, axis=1) for part in (k, v))
        seen = (age >= 0) & ((age < window) | (window == 0) | (layer % 4 == 3))
        scores = np.where(seen, np.einsum("ihd,jhd->hij", q, k) / np.sqrt(SIZE), -np.inf)
        attention = np.exp(scores - scores.max(-1, keepdims=True))
        attention /= attention.sum(-1, keepdims=True)
        mixed = np.einsum("hij,jhd->ihd", attention, v).reshape(n, -1)
        x = x + norm(mixed @ weights[f"{prefix}attn_output.weight"].T, f"{prefix}post_attention_norm.weight")

        gate, up = (x @ weights[f"{prefix}ffn_{role}.weight"].T for role in ("gate", "up"))
        h = (gate / (1 + np.exp(-gate)) * up) @ weights[f"{prefix}ffn_down.weight"].T
        x = x + norm(h, f"{prefix}post_ffw_norm.weight")

    return norm(x, "output_norm.weight") @ weights["output.weight"].T


class TestOlmo2(ArchitectureConformance):
    name = "olmo2"

    def write(self, write_model: Any) -> Path:
        return tiny_olmo2(write_model)

    @pytest.mark.parametrize("window", [0, WINDOW])
    def test_logits_match_numpy(self, write_model: Any, window: int) -> None:
        model = self.open(changed(write_model, {"olmo2.attention.sliding_window": window}, {}))
        _, found = self.evaluate(model, TOKENS)
        np.testing.assert_allclose(found, logits(model.path, window), atol=1e-9)

    @pytest.mark.parametrize(
        ("keys", "tensors", "message"),
        [
            ({"olmo2.block_count": None}, {}, "olmo2.block_count is missing"),
            ({"olmo2.rope.scaling.type": "cubic"}, {}, "olmo2.rope.scaling.type is 'cubic'"),
            ({}, {"blk.1.ffn_up.weight": None}, "'blk.1.ffn_up.weight' is missing"),
            ({}, {"blk.1.ffn_norm.weight": np.ones(N_EMBD, "f4")}, "not part of the olmo2 architecture"),
        ],
    )
    def test_unsupported_models_are_refused(
        self, write_model: Any, keys: dict[str, Any], tensors: dict[str, Any], message: str
    ) -> None:
        model = self.open(changed(write_model, keys, tensors))
        with pytest.raises(ModelError, match=message):
            self.build(model)


class TestPlugin(PluginConformance):
    name = "llamafw-olmo2"
