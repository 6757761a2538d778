"""Greedy decoding compared with a float64 forward pass of the dequantised weights."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest

from llamafw.testing.reference import Reference

# At each of the 8 steps, the reference's logit of the most likely token is higher than all others by at least 0.1. With
# a smaller difference, rounding could change the token.
PROMPTS = [
    "The capital of France is",
    "Once upon a time, there was a",
    "Water boils at a temperature of",
    "1, 2, 3, 4, 5, 6, 7,",
    "The opposite of hot is",
    "The first president of the United States was",
    "The sun rises in the east and sets in the",
    "The largest planet in the solar system is",
    "A, B, C, D, E, F,",
    "She opened the door and",
]
N = 8


@pytest.fixture(scope="module")
def reference(real_model: Path) -> Reference:
    return Reference(real_model)


@pytest.mark.every_backend
@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_tokens_match_the_reference(http: httpx.Client, reference: Reference, prompt: str) -> None:
    tokens = http.post("/tokenize", json={"content": prompt}).json()["tokens"]
    body = {"prompt": tokens, "n_predict": N, "temperature": 0, "return_tokens": True, "ignore_eos": True}
    ours = http.post("/completion", json=body).json()["tokens"]
    # one forward pass is enough: each token must be the reference's choice after the tokens before it
    logits = reference.logits(tokens + ours[:-1])[len(tokens) - 1 :]
    two_best = np.sort(logits, axis=1)[:, -2:]
    assert (two_best[:, 1] - two_best[:, 0]).min() > 0.1, (
        "the prompt is unsuitable: two tokens are almost equally likely"
    )
    assert ours == logits.argmax(axis=1).tolist()


def test_prompt_logprobs_match_the_reference(http: httpx.Client, reference: Reference) -> None:
    """The server evaluates the text in several parts of 64 tokens, and generates nothing."""
    text = " ".join(PROMPTS)
    tokens = http.post("/tokenize", json={"content": text}).json()["tokens"]
    body = {"prompt": tokens, "echo": True, "logprobs": 1, "max_tokens": 0}
    found = http.post("/v1/completions", json=body).json()["choices"][0]
    logits = reference.logits(tokens)[:-1].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    expected = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))[np.arange(len(tokens) - 1), tokens[1:]]
    ours = np.array(found["logprobs"]["token_logprobs"][1:])
    assert len(tokens) > 64
    assert found["text"] == text
    assert np.abs(ours - expected).mean() < 0.003  # the server rounds activations and keys, the reference does not
    assert abs(ours.sum() - expected.sum()) < 0.001 * abs(expected.sum())
