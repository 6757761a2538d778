"""Tests of a tiny model against an independent float64 forward pass, and of models that are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from llamafw import ModelError
from llamafw.testing.conformance import ArchitectureConformance, PluginConformance

N_EMBD, N_HEAD, N_KV, SIZE, N_LAYER, LIMIT = 64, 4, 2, 16, 4, 0.25
KEYS = {
    "general.architecture": "olmo",
    "olmo.block_count": N_LAYER,
    "olmo.context_length": 128,
    "olmo.embedding_length": N_EMBD,
    "olmo.feed_forward_length": 128,
    "olmo.attention.head_count": N_HEAD,
    "olmo.attention.head_count_kv": N_KV,
    "olmo.rope.freq_base": 500_000.0,
    "olmo.attention.layer_norm_epsilon": 1e-5,
}
TOKENS = [70, 75, 80, 85, 90, 300, 20, 30, 40, 50, 60, 70]


def tiny_olmo(write_model: Callable[..., Path]) -> Path:
    """Write a tiny Llama file with the keys of olmo, without norms."""
    tensors: dict[str, Any] = {"output_norm.weight": None}
    for i in range(N_LAYER):
        tensors |= {f"blk.{i}.attn_norm.weight": None, f"blk.{i}.ffn_norm.weight": None}
    return write_model(n_layer=N_LAYER, tied=False, metadata=KEYS, tensors=tensors)


def changed(write_model: Callable[..., Path], keys: dict[str, Any], tensors: dict[str, Any]) -> Callable[..., Path]:
    """Return a ``write_model`` that changes some metadata and tensors."""

    def write(metadata: dict[str, Any], **options: Any) -> Path:
        return write_model(**options | {"metadata": metadata | keys, "tensors": options["tensors"] | tensors})

    return write


def logits(path: Path, limit: float) -> Any:
    """Return the logits of all tokens, ``(n_tokens, n_vocab)`` float64."""
    weights = {tensor.name: tensor.data.astype(np.float64) for tensor in GGUFReader(path).tensors}
    n = len(TOKENS)
    seen = np.tri(n, dtype=bool)

    def norm(x: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)

    def rotated(x: Any) -> Any:
        """Rotate adjacent numbers of each head: pair i is (2i, 2i + 1)."""
        rotation = np.exp(1j * np.outer(np.arange(n), 500_000.0 ** (-np.arange(0, SIZE, 2) / SIZE)))[:, None]
        y = (x[..., ::2] + 1j * x[..., 1::2]) * rotation
        return np.stack([y.real, y.imag], -1).reshape(x.shape)

    x = weights["token_embd.weight"][TOKENS]
    for layer in range(N_LAYER):
        prefix, h = f"blk.{layer}.", norm(x)
        q, k, v = (np.clip(h @ weights[f"{prefix}attn_{role}.weight"].T, -limit, limit) for role in "qkv")
        q, k, v = rotated(q.reshape(n, N_HEAD, SIZE)), rotated(k.reshape(n, N_KV, SIZE)), v.reshape(n, N_KV, SIZE)
        k, v = (np.repeat(part, N_HEAD // N_KV, axis=1) for part in (k, v))
        scores = np.where(seen, np.einsum("ihd,jhd->hij", q, k) / np.sqrt(SIZE), -np.inf)
        attention = np.exp(scores - scores.max(-1, keepdims=True))
        attention /= attention.sum(-1, keepdims=True)
        mixed = np.einsum("hij,jhd->ihd", attention, v).reshape(n, -1)
        x = x + mixed @ weights[f"{prefix}attn_output.weight"].T

        gate, up = (norm(x) @ weights[f"{prefix}ffn_{role}.weight"].T for role in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ weights[f"{prefix}ffn_down.weight"].T

    return norm(x) @ weights["output.weight"].T


class TestOlmo(ArchitectureConformance):
    name = "olmo"

    def write(self, write_model: Any) -> Path:
        return tiny_olmo(write_model)

    @pytest.mark.parametrize("limit", [0.0, LIMIT])
    def test_logits_match_numpy(self, write_model: Any, limit: float) -> None:
        model = self.open(changed(write_model, {"olmo.attention.clamp_kqv": limit}, {}))
        _, found = self.evaluate(model, TOKENS)
        np.testing.assert_allclose(found, logits(model.path, limit or np.inf), atol=1e-9)

    @pytest.mark.parametrize(
        ("keys", "tensors", "message"),
        [
            ({"olmo.block_count": None}, {}, "olmo.block_count is missing"),
            ({"olmo.rope.scaling.type": "cubic"}, {}, "olmo.rope.scaling.type is 'cubic'"),
            ({}, {"blk.1.ffn_up.weight": None}, "'blk.1.ffn_up.weight' is missing"),
            ({}, {"blk.1.ffn_norm.weight": np.ones(N_EMBD, "f4")}, "not part of the olmo architecture"),
        ],
    )
    def test_unsupported_models_are_refused(
        self, write_model: Any, keys: dict[str, Any], tensors: dict[str, Any], message: str
    ) -> None:
        model = self.open(changed(write_model, keys, tensors))
        with pytest.raises(ModelError, match=message):
            self.build(model)


class TestPlugin(PluginConformance):
    name = "llamafw-olmo"
