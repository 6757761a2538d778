"""Servers with several models: one chats, another embeds, a third one reranks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from llamafw.testing.process import ServerProcess, running_server
from llamafw.testing.tiny import write_tiny_gguf

pytestmark = pytest.mark.slow

N_EMBD = {"large": 64, "small": 32, "ranker": 96}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the files of three models with vectors of different sizes."""
    folder = tmp_path_factory.mktemp("models")
    files = {}
    for seed, (name, n_embd) in enumerate(N_EMBD.items()):
        head = {"cls.output.weight": np.random.default_rng(9).normal(size=(1, n_embd)).astype(np.float32)}
        files[name] = write_tiny_gguf(
            folder / f"{name}.gguf",
            n_embd=n_embd,
            n_head=n_embd // 16,
            n_head_kv=1,
            seed=seed,
            metadata={"llama.pooling_type": 1},
            tensors=head if name == "ranker" else {},
        )
    return files


@pytest.fixture(scope="module")
def server(models: dict[str, Path]) -> Iterator[ServerProcess]:
    """Yield a server with all of them."""
    flags = ("--embedding-model", str(models["small"]), "--reranking-model", str(models["ranker"]), "--metrics")
    with running_server(
        models["large"], *flags, "-a", "chat,gpt", "--validate-responses", "-c", "512", "-np", "2"
    ) as one:
        yield one


@pytest.fixture
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    """Yield a client."""
    with httpx.Client(base_url=server.url, timeout=60) as one:
        yield one


def post(client: httpx.Client, path: str, **body: Any) -> Any:
    """Return the JSON of a response of 200."""
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_the_models_are_listed(client: httpx.Client) -> None:
    page = client.get("/v1/models").json()
    assert [model["id"] for model in page["data"]] == ["chat", "small", "ranker"]
    assert [model["aliases"] for model in page["data"]] == [["gpt"], [], []]
    assert [model["meta"]["n_embd"] for model in page["data"]] == [64, 32, 96]
    assert [model["capabilities"] for model in page["models"]] == [["completion"], ["embedding"], ["embedding"]]
    assert client.get("/v1/models/small").json()["meta"]["n_embd"] == 32
    error = client.get("/v1/models/other").json()["error"]
    assert error["message"].endswith("this server has the models 'chat' and 'small' and 'ranker'")
    names = [model["name"] for model in client.get("/api/tags").json()["models"]]
    assert names == ["chat:latest", "gpt:latest", "small:latest", "ranker:latest"]
    assert post(client, "/api/show", model="small")["capabilities"] == ["embedding"]


@pytest.mark.parametrize(
    ("model", "size"), [(None, 32), ("small", 32), ("text-embedding-3-small", 32), ("chat", 64), ("gpt", 64)]
)
def test_embeddings_come_from_the_second_model(client: httpx.Client, model: str | None, size: int) -> None:
    found = post(client, "/v1/embeddings", input=["Hello", "world"], model=model)
    assert [len(row["embedding"]) for row in found["data"]] == [size, size]
    assert found["model"] == (model or "small")
    assert len(post(client, "/embedding", content="Hello", model=model)["embedding"]) == size
    assert len(post(client, "/api/embed", input="Hello", model=model or "small")["embeddings"][0]) == size
    assert len(post(client, "/embed", inputs="Hello")[0]) == 32


def test_the_second_model_has_the_vectors_that_it_has_alone(client: httpx.Client, models: dict[str, Path]) -> None:
    with running_server(models["small"]) as alone, httpx.Client(base_url=alone.url, timeout=60) as other:
        expected = post(other, "/v1/embeddings", input="Hello")["data"]
    assert post(client, "/v1/embeddings", input="Hello")["data"] == expected


def test_documents_are_reranked_by_the_third_model(client: httpx.Client, models: dict[str, Path]) -> None:
    documents = ["the nation", "x", "rain"]
    found = post(client, "/rerank", query="the", documents=documents)
    assert found["model"] == "ranker"
    with (
        running_server(models["ranker"], "--reranking") as alone,
        httpx.Client(base_url=alone.url, timeout=60) as other,
    ):
        assert post(other, "/rerank", query="the", documents=documents)["results"] == found["results"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embedding", "/v2/embed", "/api/embed"])
def test_texts_are_not_embedded_by_another_model_than_the_named_one(client: httpx.Client, path: str) -> None:
    texts = {"texts": ["a"], "input_type": "search_query"} if path == "/v2/embed" else {"input": "a"}
    response = client.post(path, json={**texts, "model": "ranker"})
    assert response.status_code == 400, response.text
    assert "the model 'ranker' only reranks; use 'small'" in response.text


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
@pytest.mark.parametrize("model", ["chat", "gpt", "small"])
def test_documents_are_not_reranked_by_another_model_than_the_named_one(
    client: httpx.Client, path: str, model: str
) -> None:
    response = client.post(path, json={"query": "the", "documents": ["rain"], "model": model})
    assert response.status_code == 400, response.text
    assert f"the model '{model}' does not rerank; use 'ranker'" in response.text


def test_chats_are_answered_by_the_first_model(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    answer = post(client, "/v1/chat/completions", messages=messages, max_tokens=4, model="gpt")
    assert answer["usage"]["completion_tokens"] >= 1
    for path, body in (("/v1/chat/completions", {"messages": messages}), ("/completion", {"prompt": "Hi"})):
        error = client.post(path, json={**body, "model": "small"}).json()["error"]
        assert (error["code"], error["param"]) == (400, "model")
        assert error["message"] == "the model 'small' cannot generate; use 'chat'"


def test_metrics_have_the_other_models_with_a_label(client: httpx.Client) -> None:
    def value(series: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return next(float(line.split()[-1]) for line in lines if line.rsplit(" ", 1)[0] == series)

    series = 'llamafw_embeddings_total{model="small"}'
    before, before_first = value(series), value("llamafw_embeddings_total")
    post(client, "/v1/embeddings", input=["Hello", "world"])
    assert value(series) == before + 2
    assert value("llamafw_embeddings_total") == before_first
    assert value('llamacpp:n_decode_total{model="small"}') >= 1
    assert value('llamafw_embedding_tokens_total{model="small"}') > before


def test_sigterm_stops_all_engines(models: dict[str, Path]) -> None:
    with running_server(models["large"], "--embedding-model", str(models["small"])) as one:
        assert one.terminate() == 0


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--embedding-model", "missing.gguf"], 1, "--embedding-model: the model file missing.gguf does not exist"),
        (
            ["--reranking-model", "nomik"],
            1,
            "--reranking-model: 'nomik' is neither a file nor a model of the catalogue",
        ),
        (["--embedding-model", "{small}", "--embedding"], 2, "--embedding serves no completions"),
    ],
)
def test_wrong_flags_end_the_start(models: dict[str, Path], flags: list[str], code: int, message: str) -> None:
    flags = [flag.format(**models) for flag in flags]
    command = [sys.executable, "-m", "llamafw", "serve", "-m", str(models["large"]), "--port", "0", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == code
    assert message in ended.stderr
