"""A server loads a folder with a Hugging Face checkpoint and answers as with the GGUF file."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest

from checkpoints import all_checkpoints, write
from checkpoints.folders import write_folder
from llamafw.testing.process import running_server

CHECKPOINTS = {one.name: one for one in all_checkpoints()}
BODY = {"prompt": [70, 75, 80, 5, 9], "n_predict": 6, "n_probs": 4, "ignore_eos": True, "temperature": 0}


FLAGS = {
    "numba": ("--backend", "numba"),
    "onnx": ("--backend", "onnx", "--onnx-provider", "cpu", "--onnx-activations", "float"),
}


@pytest.mark.parametrize("backend", FLAGS)
@pytest.mark.parametrize(("name", "requantize"), [("llama", None), ("llama", "q8_0"), ("llama-experts", None)])
def test_answers_of_a_folder_match_the_gguf_file(
    backend: str, tmp_path: Path, name: str, requantize: str | None
) -> None:
    checkpoint, answers = CHECKPOINTS[name], []
    flags = [*FLAGS[backend], "--threads", "1", *(["--requantize", requantize] if requantize else [])]
    for path in (write(checkpoint, tmp_path / "model.gguf"), write_folder(checkpoint, tmp_path / "model")):
        with running_server(path, *flags) as server, httpx.Client(base_url=server.url, timeout=120) as client:
            response = client.post("/completion", json=BODY)
            assert response.status_code == 200, response.text
            answers.append(response.json()["completion_probabilities"])
            assert client.get("/v1/models").json()["data"][0]["id"] == "model"

    ids = [[token["id"] for token in answer] for answer in answers]
    assert ids[0] == ids[1]
    logprobs = np.array([[token["logprob"] for token in answer] for answer in answers])
    np.testing.assert_allclose(logprobs[0], logprobs[1], atol=1e-4)
