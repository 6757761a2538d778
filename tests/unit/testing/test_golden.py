"""The golden answers follow from the definitions of the fake backend, softmax and the random draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from llamafw.testing.golden import GOLDEN, GoldenAnswer
from llamafw.testing.vocabularies import gpt2

N_VOCAB = len(gpt2()["tokenizer.ggml.tokens"])
EOG = [0, 2]  # <|endoftext|>, <|im_end|>


def answer_by_definition(body: Mapping[str, Any]) -> list[int]:
    tokens, random = list(body["prompt"]), np.random.default_rng(body.get("seed"))
    for _ in range(body["n_predict"]):
        logits = np.random.default_rng(tokens[-4:]).standard_normal(N_VOCAB)
        logits[EOG] = -np.inf
        if not body.get("temperature", 1):
            tokens.append(int(logits.argmax()))
            continue
        candidates = np.argsort(-logits, kind="stable")[: body["top_k"]] if "top_k" in body else np.arange(N_VOCAB)
        weights = np.exp(logits[candidates] / body.get("temperature", 1))
        cumulative = weights.cumsum()
        index = np.searchsorted(cumulative, random.random() * cumulative[-1], side="right")
        tokens.append(int(candidates[index]))
    return tokens[len(body["prompt"]) :]


@pytest.mark.parametrize("answer", GOLDEN, ids=lambda answer: ",".join(answer.body))
async def test_server_gives_the_golden_answers(answer: GoldenAnswer, serve: Any) -> None:
    assert list(answer.tokens) == answer_by_definition(answer.body)
    async with serve() as client:
        response = await client.post("/completion", json={**answer.body, "return_tokens": True})
    assert response.json()["tokens"] == list(answer.tokens)
