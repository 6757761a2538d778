"""Servers whose models come from a hub and from an address."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.modelhub import ModelHub, Repository, serving
from support.server import running_server
from support.tiny import write_tiny_gguf


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ModelHub]:
    content = write_tiny_gguf(tmp_path / "tiny.gguf").read_bytes()
    with serving() as hub:
        hub.files["tiny.gguf"] = content
        hub.repositories["test/tiny"] = Repository({"tiny-f32.gguf": content}, token="hf_good")
        yield hub


def complete(url: str) -> str:
    body = {"prompt": "abc", "n_predict": 4, "seed": 1, "ignore_eos": True}
    text: str = httpx.post(f"{url}/completion", json=body, timeout=60).json()["content"]
    return text


@pytest.mark.inventory("C-061", "C-063", "O-10")
def test_hf_repo_is_fetched_and_answers(hub: ModelHub, tmp_path: Path) -> None:
    environ = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1"}
    with running_server(None, "-hf", "test/tiny", HF_TOKEN="hf_good", **environ) as server:
        assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"] == "tiny-f32"
        text = complete(server.url)
    assert (tmp_path / "hf" / "hub" / "models--test--tiny" / "refs" / "main").is_file()
    n = len(hub.requests)
    with running_server(None, "-hf", "test/tiny", "--offline", **environ) as server:
        assert complete(server.url) == text
    assert len(hub.requests) == n


def test_a_model_in_parts_answers_like_the_whole(hub: ModelHub, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    write_tiny_gguf(tmp_path / "parts" / "m.gguf", part_tensors=8)
    parts = {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()}
    hub.repositories["test/parts"] = Repository(parts)
    assert len(parts) == 3
    with running_server(None, "-hf", "test/parts", HF_ENDPOINT=hub.url, LLAMA_CACHE=str(tmp_path / "cache")) as server:
        assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"] == "m"
        text = complete(server.url)
    with running_server(tmp_path / "tiny.gguf") as server:
        assert complete(server.url) == text


@pytest.mark.inventory("C-060")
def test_model_url_is_fetched_and_answers(hub: ModelHub, tmp_path: Path) -> None:
    environ = {"LLAMA_CACHE": str(tmp_path / "cache"), "LLAMA_ARG_MODEL_URL": hub.file_url("tiny.gguf")}
    with running_server(None, **environ) as server:
        assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"] == "tiny"
        complete(server.url)
    assert len(list((tmp_path / "cache").rglob("tiny.gguf"))) == 1
