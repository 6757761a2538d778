"""Tests of the backend in a server, and of its logits against a float64 reference."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize

from llamafw import SettingsError
from llamafw.testing.conformance import BackendConformance, PluginConformance, RecurrentBackendConformance

BODY = {"prompt": "Hello in the nation", "n_predict": 6, "temperature": 0, "n_probs": 20, "ignore_eos": True}
N_HEAD, N_KV, SIZE = 4, 2, 16


def logits(path: Path, tokens: list[int]) -> Any:
    """Return the logits after the last token, (n_vocab,) float64.

    An independent implementation: it uses nothing of llamafw but the file.
    """
    weights = {
        tensor.name: dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
        for tensor in GGUFReader(path).tensors
    }

    def norm(x: Any, name: str) -> Any:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * weights[name]

    def rotated(x: Any) -> Any:
        rotation = np.exp(1j * np.outer(np.arange(len(x)), 1e4 ** (-np.arange(0, SIZE, 2) / SIZE)))[:, None]
        return (np.ascontiguousarray(x).view(np.complex128) * rotation).view(np.float64)

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
        x = x + mixed @ w["attn_output.weight"].T + w["attn_output.bias"]

        h = norm(x, f"blk.{layer}.ffn_norm.weight")
        gate = h @ w["ffn_gate.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ w["ffn_up.weight"].T)) @ w["ffn_down.weight"].T

    return norm(x, "output_norm.weight")[-1] @ weights["output.weight"].T


@pytest.mark.parametrize(("kind", "error"), [("f32", 1e-4), ("f16", 0.02)])
async def test_probabilities_match_float64(serve: Any, write_model: Any, kind: str, error: float) -> None:
    model = write_model(biases=True, tied=False, types={"default": "Q8_0", "attn_v": "F16"})
    prompt = [70, 75, 80, 85, 90, 300, 20, 30]
    async with serve(model=model, backend="numpy", cache_type_k=kind, cache_type_v=kind) as client:
        answer = (await client.post("/completion", json={**BODY, "prompt": prompt, "n_predict": 1})).json()
    expected = logits(model, prompt)
    expected -= np.log(np.exp(expected).sum())

    (token,) = answer["completion_probabilities"]
    found = {entry["id"]: entry["logprob"] for entry in token["top_logprobs"]}
    np.testing.assert_allclose(list(found.values()), expected[list(found)], atol=error)


async def test_other_cache_types_are_refused(serve: Any) -> None:
    with pytest.raises(SettingsError, match="stores keys and values as f16 or f32, not q8_0"):
        async with serve(backend="numpy", cache_type_v="q8_0"):
            pass


async def test_answers_do_not_depend_on_batch_or_cache(serve: Any) -> None:
    async with serve(backend="numpy", parallel=3, cache_ram=0) as client:

        async def ask(prompt: str) -> Any:
            return (await client.post("/completion", json={**BODY, "prompt": prompt})).json()[
                "completion_probabilities"
            ]

        prompts = ["Hello in the nation", "Something else", "And a third one, which is longer"]
        alone = [await ask(prompt) for prompt in prompts]
        assert await asyncio.gather(*map(ask, prompts)) == alone
        assert await ask(prompts[0]) == alone[0]


async def test_context_shifts(serve: Any) -> None:
    async with serve(backend="numpy", parallel=1, ctx_size=32, context_shift=True) as client:
        answer = (await client.post("/completion", json={**BODY, "n_predict": 60})).json()
        assert (answer["truncated"], answer["tokens_predicted"]) == (True, 60)


async def test_saved_state_is_restored_exactly(serve: Any) -> None:
    """With one slot, the second prompt displaces the state of the first, which is saved and restored."""
    prompts = [f"{word} in the nation " * 8 for word in ("First", "Second")]
    async with serve(backend="numpy", parallel=1) as client:
        answers = [(await client.post("/completion", json={**BODY, "prompt": prompts[i]})).json() for i in (0, 1, 0)]
    assert answers[0]["tokens_cached"] == 0
    assert answers[2]["tokens_cached"] > 64
    assert answers[2]["completion_probabilities"] == answers[0]["completion_probabilities"]


class TestNumpy(BackendConformance):
    name = "numpy"
    tolerance = 1e-4


class TestRecurrentModels(RecurrentBackendConformance):
    name = "numpy"


class TestPlugin(PluginConformance):
    name = "llamafw-numpy"
