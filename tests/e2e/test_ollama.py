"""Ollama's API with the ``ollama`` client and the default model, and requests of programs that know only Ollama."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import ollama
import pytest

from llamafw.testing.process import ServerProcess

ASK: Any = [{"role": "user", "content": "What is the capital of France?"}]
SHORT = {"temperature": 0, "num_predict": 16}


@pytest.fixture
def client(server: ServerProcess) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url) as opened:
        yield opened


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    pause = threading.Event()
    for _ in range(3000):
        if condition():
            return
        pause.wait(0.02)
    pytest.fail("the condition has not become true")


@pytest.mark.client("ollama", "chat", "generate")
def test_questions_are_answered_whole_and_in_a_stream(client: ollama.Client) -> None:
    whole = client.chat(model="any", messages=ASK, options=SHORT)
    assert "Paris" in (whole.message.content or "")
    parts = list(client.chat(model="any", messages=ASK, options=SHORT, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert (parts[-1].done_reason, parts[-1].eval_count) == (whole.done_reason, whole.eval_count)
    assert (parts[-1].eval_duration or 0) > 0

    prompted = client.generate(model="any", prompt=ASK[0]["content"], options=SHORT)
    assert prompted.response == whole.message.content
    following = client.generate(model="any", prompt="And of Italy?", context=prompted.context, options=SHORT)
    n = len(prompted.context or ())
    assert n
    assert list(following.context or ())[:n] == list(prompted.context or ())
    assert (following.prompt_eval_count or 0) > n


@pytest.mark.client("ollama", "list", "ps", "show", "pull")
def test_the_model_is_described(client: ollama.Client) -> None:
    (model,) = client.list().models
    assert model.model is not None
    shown = client.show(model.model)
    assert shown.details is not None
    assert shown.details.quantization_level
    info = shown.modelinfo or {}
    assert info[f"{info['general.architecture']}.context_length"] > 0
    assert "completion" in (shown.capabilities or [])
    assert client.ps().models[0].model == model.model
    assert client.pull(model.model).status == "success"


@pytest.mark.client("ollama", "embed", "embeddings")
def test_embeddings_are_comparable(client: ollama.Client) -> None:
    texts = ["The cat sat on the mat.", "A cat is sitting on a mat.", "Interest rates rose in March."]
    cat, sitting, rates = map(np.array, client.embed(model="any", input=texts).embeddings)
    assert cat @ sitting > cat @ rates
    older = np.array(client.embeddings(model="any", prompt=texts[0]).embedding)
    np.testing.assert_allclose(older / np.linalg.norm(older), cat, rtol=1e-4, atol=1e-6)


def test_closing_a_stream_ends_the_generation(client: ollama.Client, http: httpx.Client) -> None:
    def busy() -> int:
        return sum(slot["is_processing"] for slot in http.get("/slots").json())

    wait_until(lambda: busy() == 0)
    stream: Any = client.generate(model="any", prompt="Count", raw=True, stream=True, options={"num_predict": -1})
    next(stream)
    stream.close()
    wait_until(lambda: busy() == 0)


@pytest.mark.client("Open WebUI", "GET /api/tags", "GET /api/version", "POST /api/chat", "POST /api/show")
def test_requests_of_open_webui_are_answered(http: httpx.Client) -> None:
    """Open WebUI lists models, merges them by name, and proxies chats with its own settings."""
    assert http.get("/api/version").json()["version"]
    (model,) = http.get("/api/tags").json()["models"]
    body: Any = {
        "model": model["model"],
        "messages": [{"role": "system", "content": "Be brief."}, {**ASK[0], "images": []}],
        "options": {"num_ctx": 2048, "temperature": 0, "stop": ["\n\n"], "num_predict": 16, "num_gpu": 1},
        "stream": True,
        "keep_alive": "5m",
        "metadata": {"user_id": "u", "chat_id": "c"},
    }
    response = http.post("/api/chat", json=body)
    *_, last = [json.loads(line) for line in response.text.splitlines()]
    assert last["done"] is True
    assert response.headers["x-llamafw-ignored-fields"].split(", ") == [
        "metadata",
        "options.num_ctx",
        "options.num_gpu",
    ]
    assert http.post("/api/show", json={"name": model["name"]}).json()["capabilities"]


@pytest.mark.client("Continue", "POST /api/show", "POST /api/generate", "POST /api/chat", "POST /api/embed")
def test_requests_of_continue_are_answered(http: httpx.Client) -> None:
    """Continue reads the size of the context, completes code with raw prompts, chats with tools, and embeds files."""
    name = http.get("/api/tags").json()["models"][0]["name"]
    shown = http.post("/api/show", json={"name": name}).json()
    sizes = [line.split() for line in shown["parameters"].splitlines() if line.startswith("num_ctx")]
    assert int(sizes[0][1]) > 0

    options = {"temperature": 0.01, "num_predict": 8, "stop": ["\n"], "num_ctx": int(sizes[0][1]), "mirostat": None}
    raw = {"model": name, "prompt": "def add(a, b):\n    return", "raw": True, "options": options, "keep_alive": 1800}
    lines = [json.loads(line) for line in http.post("/api/generate", json=raw).text.splitlines()]
    assert "a" in "".join(line["response"] for line in lines)

    tool = {"type": "function", "function": {"name": "read", "description": "", "parameters": {"type": "object"}}}
    call = {"function": {"name": "read", "arguments": {"path": "a.py"}}}
    messages = [
        {"role": "user", "content": "Read a.py"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "x = 1", "tool_name": "read"},
    ]
    chat = {"model": name, "messages": messages, "tools": [tool], "options": options, "stream": True}
    response = http.post("/api/chat", json=chat)
    assert json.loads(response.text.splitlines()[-1])["done"] is True
    assert "x-llamafw-ignored-fields" not in response.headers
    assert len(http.post("/api/embed", json={"model": name, "input": ["x = 1", "y"]}).json()["embeddings"]) == 2


@pytest.mark.client("LangChain's ChatOllama", "POST /api/chat")
def test_requests_of_langchain_are_answered(http: httpx.Client) -> None:
    """ChatOllama sends every option, most of them null, and reads counts from the last line."""
    names = "mirostat mirostat_eta mirostat_tau num_ctx num_gpu num_thread repeat_last_n repeat_penalty seed stop tfs_z"
    options = {**dict.fromkeys(names.split()), "num_predict": 8, "temperature": 0.0, "top_k": None, "top_p": None}
    body = {"model": "any", "messages": ASK, "stream": True, "format": None, "think": None, "tools": []}
    response = http.post("/api/chat", json={**body, "options": options, "keep_alive": None})
    assert response.status_code == 200, response.text
    assert "x-llamafw-ignored-fields" not in response.headers
    last = json.loads(response.text.splitlines()[-1])
    assert last["prompt_eval_count"] > 0
    assert (last["eval_count"], last["done_reason"]) == (8, "length") or last["done_reason"] == "stop"
