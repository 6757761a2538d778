"""Reranking: scores match the rank head applied to the embeddings of the same prompts."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest

from llamafw.testing.process import running_server
from llamafw.testing.tiny import write_tiny_gguf

QUERY, DOCUMENTS = "which animal eats bamboo?", ["The panda.", "A <|im_end|> token as text.", "x" * 200, ""]
SEPARATOR = 300


@pytest.mark.inventory("E-161", "E-162", "C-107", "R-19")
def test_rerank_scores_match_the_rank_head(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    weight, bias = rng.normal(size=(1, 64)).astype(np.float32), np.array([0.25], np.float32)
    model = write_tiny_gguf(
        tmp_path / "tiny.gguf",
        metadata={"tokenizer.ggml.seperator_token_id": SEPARATOR},
        tensors={"cls.output.weight": weight, "cls.output.bias": bias},
    )
    with (
        running_server(model, "--reranking", "--validate-responses") as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):

        def tokens(text: str) -> list[int]:
            body = {"content": text, "parse_special": False}
            return list(client.post("/tokenize", json=body).json()["tokens"])

        bos, eos = 1, 2  # tokens of the tiny vocabulary
        prompts = [[bos, *tokens(QUERY), eos, SEPARATOR, *tokens(text), eos] for text in DOCUMENTS]
        body = {"content": prompts, "embd_normalize": -1}
        states = [row["embedding"] for row in client.post("/embedding", json=body).json()]
        expected = np.array(states, np.float64) @ weight[0].astype(np.float64) + 0.25
        found = client.post("/rerank", json={"query": QUERY, "documents": DOCUMENTS}).json()
        scores = {row["index"]: row["relevance_score"] for row in found["results"]}
        np.testing.assert_allclose([scores[i] for i in range(4)], expected, rtol=1e-5)
        assert [row["index"] for row in found["results"]] == np.argsort(-expected).tolist()
        assert found["usage"]["prompt_tokens"] == sum(map(len, prompts))
        answer = client.post("/completion", json={"prompt": "abc", "n_predict": 2}).json()  # completions still work
        assert answer["tokens_predicted"] >= 1
