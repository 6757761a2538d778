"""Tests of a tiny model against an independent float64 forward pass, and of models that are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from llamafw.testing.conformance import ArchitectureConformance, PluginConformance

N_EMBD, N_HEAD, N_KV, SIZE = 64, 4, 2, 16
KEYS = {
    "general.architecture": "qwen2",
    "qwen2.block_count": 2,
    "qwen2.context_length": 128,
    "qwen2.embedding_length": N_EMBD,
    "qwen2.feed_forward_length": 128,
    "qwen2.attention.head_count": N_HEAD,
    "qwen2.attention.head_count_kv": N_KV,
    "qwen2.rope.freq_base": 1e6,
    "qwen2.attention.layer_norm_rms_epsilon": 1e-6,
}


def tiny_qwen2(write_model: Any) -> Path:
    """Write a tiny Llama file with the keys of qwen2, and with biases on Q, K and V only."""
    return Path(write_model(biases=True, metadata=KEYS, tensors={f"blk.{i}.attn_output.bias": None for i in range(2)}))


@pytest.fixture
def model(write_model: Any) -> Path:
    return tiny_qwen2(write_model)


def logits(path: Path, tokens: list[int]) -> Any:
    """Return the logits after the last token, (n_vocab,) float64."""
    weights = {tensor.name: tensor.data.astype(np.float64) for tensor in GGUFReader(path).tensors}

    def norm(x: Any, name: str) -> Any:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weights[name]

    def rotated(x: Any) -> Any:
        """Rotate the halves of each head: pair i is (i, i + 8)."""
        rotation = np.exp(1j * np.outer(np.arange(len(x)), 1e6 ** (-np.arange(0, SIZE, 2) / SIZE)))[:, None]
        y = (x[..., : SIZE // 2] + 1j * x[..., SIZE // 2 :]) * rotation
        return np.concatenate([y.real, y.imag], -1)

    x = weights["token_embd.weight"][tokens]
    for layer in range(2):
        w = {name.removeprefix(f"blk.{layer}."): value for name, value in weights.items()}
        h = norm(x, f"blk.{layer}.attn_norm.weight")
        q, k, v = (h @ w[f"attn_{r}.weight"].T + w[f"attn_{r}.bias"] for r in "qkv")
        q, k, v = rotated(q.reshape(-1, N_HEAD, SIZE)), rotated(k.reshape(-1, N_KV, SIZE)), v.reshape(-1, N_KV, SIZE)
        k, v = (np.repeat(part, N_HEAD // N_KV, axis=1) for part in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(SIZE) + np.triu(np.full((len(x), len(x)), -np.inf), 1)
        attention = np.exp(scores - scores.max(-1, keepdims=True))
        attention /= attention.sum(-1, keepdims=True)
        mixed = np.einsum("hij,jhd->ihd", attention, v).reshape(len(x), -1)
        x = x + mixed @ w["attn_output.weight"].T

        h = norm(x, f"blk.{layer}.ffn_norm.weight")
        gate = h @ w["ffn_gate.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["ffn_up.weight"].T)) @ w["ffn_down.weight"].T

    return norm(x, "output_norm.weight")[-1] @ weights["token_embd.weight"].T


async def test_probabilities_match_float64(serve: Any, model: Path) -> None:
    prompt = [70, 75, 80, 85, 90, 300, 20, 30]
    async with serve(model=model, backend="numba", threads=1, cache_type_k="f32", cache_type_v="f32") as client:
        body = {"prompt": prompt, "n_predict": 1, "n_probs": 20, "temperature": 0}
        answer = (await client.post("/completion", json=body)).json()
    expected = logits(model, prompt)
    expected -= np.log(np.exp(expected).sum())

    (token,) = answer["completion_probabilities"]
    found = {entry["id"]: entry["logprob"] for entry in token["top_logprobs"]}
    assert list(found) == np.argsort(-expected)[:20].tolist()
    np.testing.assert_allclose(list(found.values()), expected[list(found)], atol=0.02)  # the backend rounds activations


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {"qwen2.block_count": None}}, "qwen2.block_count is missing"),
        ({"metadata": {"qwen2.expert_count": 8}}, "qwen2.expert_count is not supported"),
        ({"metadata": {"qwen2.rope.scaling.type": "longrope"}}, "it can be none, linear or yarn"),
        ({"tensors": {"blk.1.ffn_up.weight": None}}, "'blk.1.ffn_up.weight' is missing"),
        (
            {"tensors": {"blk.1.ffn_up_exps.weight": np.zeros((2, 4, 4), np.float32)}},
            "not part of the qwen2 architecture",
        ),
    ],
)
def test_unsupported_models_are_refused(write_model: Any, change: dict[str, Any], message: str) -> None:
    from types import SimpleNamespace

    from llamafw_qwen2 import qwen2

    from llamafw import ModelError, Tensor

    without_output_bias = {f"blk.{i}.attn_output.bias": None for i in range(2)}
    tensors = without_output_bias | change.get("tensors", {})
    path = write_model(biases=True, metadata=KEYS | change.get("metadata", {}), tensors=tensors)
    reader = GGUFReader(path)
    model: Any = SimpleNamespace(
        path=path,
        metadata={name: field.contents() for name, field in reader.fields.items()},
        tensors={
            t.name: Tensor(t.name, tuple(map(int, t.shape[::-1])), "F32", t.data.view(np.uint8)) for t in reader.tensors
        },
    )

    with pytest.raises(ModelError, match=message):
        qwen2(model)


class TestQwen2(ArchitectureConformance):
    name = "qwen2"

    def write(self, write_model: Any) -> Path:
        return tiny_qwen2(write_model)


class TestPlugin(PluginConformance):
    name = "llamafw-qwen2"
