"""Tests of a tiny model against the equations of the paper (arXiv:2503.14456), and of the operators."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from llamafw_rwkv.operators import CHANNELS

from llamafw import Model, ModelError
from llamafw import graph as g
from llamafw.testing.conformance import ArchitectureConformance, OperatorConformance

N_VOCAB, N_EMBD, N_FF, SIZE, RANK, N_LAYER, EPS = 320, 64, 128, 16, 32, 3, 1e-5
N_HEAD = N_EMBD // SIZE
TOKENS = [70, 75, 80, 5, 9, 70, 300, 20, 30, 40, 50, 60]
KEYS = {
    "general.architecture": "rwkv7",
    "rwkv7.context_length": 256,
    "rwkv7.embedding_length": N_EMBD,
    "rwkv7.block_count": N_LAYER,
    "rwkv7.feed_forward_length": N_FF,
    "rwkv7.attention.layer_norm_epsilon": EPS,
    "rwkv7.wkv.head_size": SIZE,
    "rwkv7.attention.decay_lora_rank": RANK,
    "rwkv7.attention.iclr_lora_rank": RANK,
    "rwkv7.attention.value_residual_mix_lora_rank": RANK,
    "rwkv7.attention.gate_lora_rank": RANK,
    "rwkv7.attention.head_count": 0,
    "tokenizer.ggml.model": "rwkv",
    "tokenizer.ggml.tokens": [
        "<s>",
        *(repr(bytes([byte]))[2:-1] for byte in range(256)),
        *(f"[PAD{i}]" for i in range(257, N_VOCAB)),
    ],
    "tokenizer.ggml.token_type": [3, *[1] * 256, *[5] * (N_VOCAB - 257)],
}


def layer_tensors(rng: np.random.Generator, letters: str) -> Iterator[tuple[str, Any]]:
    """Yield the names and numbers of one layer's tensors, with the shapes that llama.cpp's converter writes.

    ``letters`` are those of its low-rank MLPs: w (decay), a (rate), v (value residual), g (gate).
    """

    def matrix(n: int, m: int) -> Any:
        return rng.normal(0, 1.5 / m**0.5, (n, m))

    for norm in ("attn_norm", "attn_norm_2", "time_mix_ln"):
        yield f"{norm}.weight", rng.normal(1, 0.2, N_EMBD)
        yield f"{norm}.bias", rng.normal(0, 0.2, N_EMBD)
    yield "time_mix_lerp_fused.weight", rng.uniform(0, 1, (6 if "g" in letters else 5, 1, 1, N_EMBD))
    for letter in letters:
        if letter != "g":
            yield f"time_mix_{letter}0.weight", rng.normal(0, 1, N_EMBD)
        yield f"time_mix_{letter}1.weight", matrix(RANK, N_EMBD)
        yield f"time_mix_{letter}2.weight", matrix(N_EMBD, RANK)
    for vector in ("k_k", "k_a", "r_k"):
        yield f"time_mix_{vector}.weight", rng.normal(0.5, 0.3, N_EMBD)
    for role in ("receptance", "key", "value", "output"):
        yield f"time_mix_{role}.weight", matrix(N_EMBD, N_EMBD)
    yield "channel_mix_lerp_k.weight", rng.uniform(0, 1, N_EMBD)
    yield "channel_mix_key.weight", matrix(N_FF, N_EMBD)
    yield "channel_mix_value.weight", matrix(N_EMBD, N_FF)


def tiny_rwkv7(write_model: Callable[..., Path], *, first: str = "wag", others: str = "wavg", **changes: Any) -> Path:
    """Write a tiny model with random weights; ``first`` and ``others`` are the letters of its layers."""
    rng = np.random.default_rng(7)
    tensors = {
        "token_embd_norm.weight": rng.normal(1, 0.2, N_EMBD),
        "token_embd_norm.bias": rng.normal(0, 0.2, N_EMBD),
        "output_norm.bias": rng.normal(0, 0.2, N_EMBD),
        "output.weight": rng.normal(0, 3 / N_EMBD**0.5, (N_VOCAB, N_EMBD)),
    }
    for i in range(N_LAYER):
        layer = layer_tensors(rng, others if i else first)
        tensors |= {f"blk.{i}.{name}": numbers for name, numbers in layer}
    arrays = {name: numbers.astype(np.float32) for name, numbers in tensors.items()}
    options: dict[str, Any] = {"n_layer": 0, "metadata": KEYS, "tokenizer": None, "n_vocab": N_VOCAB}
    return write_model(tensors=arrays, **options | changes)


def reference_logits(path: Path, tokens: Sequence[int]) -> Any:
    """Return the logits of each token, ``(n_tokens, n_vocab)`` float64, computed one token after the other."""
    weights = {tensor.name: tensor.data.astype(np.float64) for tensor in GGUFReader(path).tensors}
    layers = [Layer(weights, i) for i in range(N_LAYER)]
    rows = []
    for token in tokens:
        x = norm(weights["token_embd.weight"][token], weights, "token_embd_norm")
        v_first = np.empty(0)
        for layer in layers:
            mixed, v_first = layer.time_mixing(norm(x, weights, f"{layer.prefix}attn_norm"), v_first)
            x = x + mixed
            x = x + layer.channel_mixing(norm(x, weights, f"{layer.prefix}attn_norm_2"))
        rows.append(weights["output.weight"] @ norm(x, weights, "output_norm"))
    return np.array(rows)


class Layer:
    """One block of the model, with its state."""

    def __init__(self, weights: dict[str, Any], number: int) -> None:
        self.weights, self.number, self.prefix = weights, number, f"blk.{number}."
        self.x_time, self.x_channel = np.zeros(N_EMBD), np.zeros(N_EMBD)  # of the token before
        self.wkv = np.zeros((N_HEAD, SIZE, SIZE))  # (value, key) for each head

    def get(self, name: str) -> Any:
        """Return a tensor."""
        return self.weights[f"{self.prefix}{name}.weight"]

    def lora(self, letter: str, x: Any, function: Callable[[Any], Any]) -> Any:
        """Return ``B f(A x) + b``; b is missing for the gate."""
        y = self.get(f"time_mix_{letter}2") @ function(self.get(f"time_mix_{letter}1") @ x)
        return y if letter == "g" else y + self.get(f"time_mix_{letter}0")

    def time_mixing(self, x: Any, v_first: Any) -> tuple[Any, Any]:
        """Return the output of the time mixing, and the values of the first layer."""
        mu = self.get("time_mix_lerp_fused").reshape(-1, N_EMBD)
        mixed = [x + (self.x_time - x) * row for row in mu]
        self.x_time = x

        receptance = self.get("time_mix_receptance") @ mixed[0]
        decay = np.exp(-np.exp(-0.5) * sigmoid(self.lora("w", mixed[1], np.tanh)))
        key = self.get("time_mix_key") @ mixed[2]
        value = self.get("time_mix_value") @ mixed[3]
        if self.number == 0:
            v_first = value
        else:
            nu = sigmoid(self.lora("v", mixed[3], lambda z: z))
            value = value + nu * (v_first - value)
        rate = sigmoid(self.lora("a", mixed[4], lambda z: z))  # in-context learning rate

        removal = (key * self.get("time_mix_k_k")).reshape(N_HEAD, SIZE)
        removal /= np.linalg.norm(removal, axis=1, keepdims=True)
        replacement = (key * (1 + (rate - 1) * self.get("time_mix_k_a"))).reshape(N_HEAD, SIZE)
        r, w, v, a = (part.reshape(N_HEAD, SIZE) for part in (receptance, decay, value, rate))
        for h in range(N_HEAD):
            transition = np.diag(w[h]) - np.outer(removal[h], a[h] * removal[h])
            self.wkv[h] = self.wkv[h] @ transition + np.outer(v[h], replacement[h])

        p = np.array([self.wkv[h] @ r[h] for h in range(N_HEAD)])
        p = (p - p.mean(1, keepdims=True)) / np.sqrt(p.var(1, keepdims=True) + 64e-5)
        p = p.reshape(-1) * self.get("time_mix_ln") + self.weights[f"{self.prefix}time_mix_ln.bias"]
        bonus = (r * replacement * self.get("time_mix_r_k").reshape(N_HEAD, SIZE)).sum(1, keepdims=True) * v
        p = p + bonus.reshape(-1)
        if len(mu) == 6:
            p = p * self.lora("g", mixed[5], sigmoid)
        return self.get("time_mix_output") @ p, v_first

    def channel_mixing(self, x: Any) -> Any:
        """Return the output of the channel mixing."""
        mixed = x + (self.x_channel - x) * self.get("channel_mix_lerp_k")
        self.x_channel = x
        return self.get("channel_mix_value") @ np.maximum(self.get("channel_mix_key") @ mixed, 0) ** 2


def sigmoid(x: Any) -> Any:
    """Return the logistic function."""
    return 1 / (1 + np.exp(-x))


def norm(x: Any, weights: dict[str, Any], name: str) -> Any:
    """Return the layer norm of a row."""
    return (x - x.mean()) / np.sqrt(x.var() + EPS) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


class TestRwkv7(ArchitectureConformance):
    name = "rwkv7"

    def write(self, write_model: Any) -> Path:
        return tiny_rwkv7(write_model)

    @pytest.mark.parametrize(("first", "others"), [("wag", "wavg"), ("wavg", "wavg"), ("wa", "wav")])
    def test_logits_match_the_paper(self, write_model: Any, first: str, others: str) -> None:
        """Also if the first layer has tensors for a value residual, which it does not use, and without gates."""
        model = self.open_with(write_model, first=first, others=others)
        _, logits = self.evaluate(model, TOKENS)
        np.testing.assert_allclose(logits, reference_logits(model.path, TOKENS), atol=1e-9)

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ({"rwkv7.wkv.head_size": 24}, "64 numbers cannot be divided into heads of 24"),
            ({"rwkv7.block_count": 2}, "'blk.2.* is not part of the rwkv7 architecture"),
        ],
    )
    def test_unsupported_models_are_refused(self, write_model: Any, keys: dict[str, Any], message: str) -> None:
        model = self.open_with(write_model, metadata=KEYS | keys)
        with pytest.raises(ModelError, match=message):
            self.build(model)

    def open_with(self, write_model: Any, **changes: Any) -> Model:
        """Open a tiny model that differs from the one that `write` writes."""
        path = tiny_rwkv7(write_model, **changes)
        return self.open(lambda **options: path)


class TestTokenShift(OperatorConformance):
    name = "token_shift"
    inputs = {"x": (2 * CHANNELS,)}
    weights = {"mu": (3, 2 * CHANNELS)}


class TestWkv7(OperatorConformance):
    name = "wkv7"
    inputs = dict.fromkeys(("r", "w", "k", "v", "removed", "rate"), (5, 16))

    def numbers(self, name: str, rng: np.random.Generator, shape: g.Shape) -> Any:
        rows = rng.standard_normal(shape)
        if name == "removed":
            return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
        return sigmoid(rows) if name in ("w", "rate") else rows


class TestHeadDot(OperatorConformance):
    name = "head_dot"
    inputs = {"a": (4, 16), "b": (4, 16)}
    weights = {"weight": (4, 16)}


async def test_server_continues_chats_and_batches_requests(serve: Any, write_model: Any) -> None:
    """Greedy answers are those of the paper, alone, in a batch, and continued from the cache."""
    path = tiny_rwkv7(write_model)
    expected = [greedy(path, [7 + i, 80, 99, 3], 6) for i in range(3)]

    async with serve(model=path, backend="numba", threads=2, parallel=3) as client:

        async def answer(prompt: list[int]) -> Any:
            body = {"prompt": prompt, "n_predict": 6, "temperature": 0, "ignore_eos": True, "return_tokens": True}
            response = await client.post("/completion", json=body)
            assert response.status_code == 200, response.text
            return response.json()

        answers = await asyncio.gather(*(answer([7 + i, 80, 99, 3]) for i in range(3)))
        assert [one["tokens"] for one in answers] == expected

        prompt = [7, 80, 99, 3, *expected[0], 11]
        again = await answer(prompt)
        assert again["tokens"] == greedy(path, prompt, 6)
        assert again["timings"]["prompt_n"] < len(prompt)


def greedy(path: Path, prompt: list[int], n: int) -> list[int]:
    """Return the most likely tokens after a prompt."""
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(int(reference_logits(path, tokens)[-1].argmax()))
    return tokens[len(prompt) :]
