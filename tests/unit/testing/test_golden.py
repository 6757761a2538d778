"""The golden streams, from the definitions: the backend's noise, softmax, the draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llamafw.testing.golden import GOLDEN, GoldenAnswer
from llamafw.testing.vocabularies import gpt2

N_VOCAB = len(gpt2()["tokenizer.ggml.tokens"])
EOG = (0, 2)  # <|endoftext|>, <|im_end|>


def by_definition(body: Any) -> list[int]:
    tokens, random = list(body["prompt"]), np.random.default_rng(body.get("seed"))
    for _ in range(body["n_predict"]):
        logits = np.random.default_rng(tokens[-4:]).standard_normal(N_VOCAB)
        logits[list(EOG)] = -np.inf
        if not body.get("temperature", 1):
            tokens.append(int(logits.argmax()))
            continue
        order = np.argsort(-logits, kind="stable")[: body["top_k"]] if "top_k" in body else np.arange(N_VOCAB)
        weights = np.exp(logits[order] / body.get("temperature", 1))
        ends = weights.cumsum()
        tokens.append(int(order[np.searchsorted(ends, random.random() * ends[-1], side="right")]))
    return tokens[len(body["prompt"]) :]


@pytest.mark.parametrize("stream", GOLDEN, ids=lambda stream: ",".join(stream.body))
async def test_streams(stream: GoldenAnswer, serve: Any) -> None:
    assert list(stream.tokens) == by_definition(stream.body)
    async with serve() as client:
        answer = (await client.post("/completion", json={**stream.body, "return_tokens": True})).json()
    assert answer["tokens"] == list(stream.tokens)
