"""The tokens of a document have another type than those of the query, if a reranker is BERT."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import numpy as np
import pytest

from llamafw.cli.main import main
from llamafw.testing.process import running_server
from support.bert_pairs import DOCUMENTS, QUERY, SCORES, write_reranker

EXPECTED = json.loads(SCORES.read_text("utf-8"))
FLAGS = {"numba": (), "onnx": ("--onnx-provider", "cpu", "--onnx-activations", "float")}


@pytest.mark.inventory("E-160", "C-107")
@pytest.mark.parametrize(("backend", "is_converted"), [("numba", False), ("numba", True), ("onnx", False)])
def test_scores_of_pairs_are_those_of_transformers(backend: str, is_converted: bool, tmp_path: Path) -> None:
    model = write_reranker(tmp_path / "model")
    if is_converted:
        assert main(["convert", str(model), str(tmp_path / "model.gguf"), "--type", "f32", "--quiet"]) == 0
        model = tmp_path / "model.gguf"
    flags = ["--reranking", "--backend", backend, *FLAGS[backend], "--threads", "1"]
    with running_server(model, *flags) as server, httpx.Client(base_url=server.url, timeout=120) as client:
        together = client.post("/rerank", json={"query": QUERY, "documents": DOCUMENTS})
        alone = client.post("/rerank", json={"query": QUERY, "documents": DOCUMENTS[2:3]})
    assert together.status_code == 200, together.text
    scores = {one["index"]: one["relevance_score"] for one in together.json()["results"]}
    found = [scores[i] for i in range(len(DOCUMENTS))]
    np.testing.assert_allclose(found, EXPECTED["scores"], atol=1e-4)
    assert alone.json()["results"][0]["relevance_score"] == pytest.approx(EXPECTED["scores"][2], abs=1e-4)
    assert np.abs(np.subtract(EXPECTED["scores"], EXPECTED["scores_of_one_type"])).min() > 0.01  # types matter
