"""Greedy decoding through the server against a float64 forward pass of the dequantised weights."""
from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest
from support.reference import Reference

PROMPTS = [
    "The capital of France is",
    "Once upon a time, there was a",
    "def fibonacci(n):\n    ",
    "The three primary colours are red,",
    "Water boils at a temperature of",
    "1, 2, 3, 4, 5, 6, 7,",
    "To be, or not to be, that is",
    "The opposite of hot is",
    "Monday, Tuesday, Wednesday,",
    "The first president of the United States was",
]
N = 8


@pytest.fixture(scope="module")
def reference(real_model: Path) -> Reference:
    return Reference(real_model)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_first_greedy_tokens_are_the_references(http: httpx.Client, reference: Reference, prompt: str) -> None:
    tokens = http.post("/tokenize", json={"content": prompt}).json()["tokens"]
    body = {"prompt": tokens, "n_predict": N, "temperature": 0, "return_tokens": True, "ignore_eos": True}
    ours = http.post("/completion", json=body).json()["tokens"]
    sequence = list(tokens)
    for _ in range(N):
        sequence.append(int(np.argmax(reference.logits(sequence)[-1])))
    assert ours == sequence[len(tokens) :]
