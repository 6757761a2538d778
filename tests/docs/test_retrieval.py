"""The retrieval program of the examples finds, reranks and cites passages, with three tiny models."""

from __future__ import annotations

import runpy
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from llamafw.testing.process import running_server
from llamafw.testing.tiny import write_tiny_gguf

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "examples/retrieval/retrieve.py"
TEXTS = {"animals.md": "# Pandas\n\nPandas eat bamboo.", "towns/ely.txt": "Ely is a city.\n\nIt rains.", "x.bin": "no"}
QUESTION = "What do pandas eat?"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a server with a chat model, an embedder and a reranker."""
    folder = tmp_path_factory.mktemp("models")
    head = {"cls.output.weight": np.random.default_rng(9).normal(size=(1, 64)).astype(np.float32)}
    chat = write_tiny_gguf(folder / "chat.gguf")
    embedder = write_tiny_gguf(folder / "embedder.gguf", seed=1, metadata={"llama.pooling_type": 1})
    ranker = write_tiny_gguf(folder / "ranker.gguf", seed=2, tensors=head)
    with running_server(chat, "--embedding-model", str(embedder), "--reranking-model", str(ranker)) as server:
        yield server.url


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Return a folder with texts."""
    for name, text in TEXTS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def run(url: str, folder: Path, *flags: str) -> list[str]:
    """Run the program; return the lines that it prints after the answer."""
    command = [sys.executable, str(PROGRAM), str(folder), QUESTION, "--url", url, "--max-tokens", "4", *flags]
    output = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    return [line for line in output.splitlines() if ", passage " in line]


def test_sources_are_those_of_the_reranker(url: str, texts: Path) -> None:
    program: Any = runpy.run_path(str(PROGRAM))
    passages = program["read_passages"](texts)
    assert [passage.source for passage in passages] == ["animals.md, passage 1", "towns/ely.txt, passage 1"]
    with httpx.Client(base_url=url, timeout=60) as client:
        body = {"query": QUESTION, "documents": [passage.text for passage in passages]}
        ranked = [row["index"] for row in client.post("/v1/rerank", json=body).json()["results"]]
        rows = client.post("/v1/embeddings", json={"input": body["documents"]}).json()["data"]
    expected = [f"[{n}] {passages[i].source}" for n, i in enumerate(ranked, 1)]
    assert run(url, texts) == expected
    with np.load(texts / ".vectors.npz") as kept:
        for passage, row in zip(passages, rows, strict=True):
            np.testing.assert_array_equal(kept[passage.key], np.array(row["embedding"], np.float32))
    assert run(url, texts, "--cited", "1") == expected[:1]  # with the vectors that are kept


def test_the_closest_passages_are_found(url: str, texts: Path) -> None:
    program: Any = runpy.run_path(str(PROGRAM))
    passages = program["read_passages"](texts)
    with httpx.Client(base_url=url, timeout=60) as client:
        vectors = program["index"](client, texts, passages)
        for passage in passages:
            assert program["search"](client, passage.text, passages, vectors, 1) == [passage]


def end_of(folder: Path, *flags: str) -> str:
    """Run the program; return the message with which it fails."""
    command = [sys.executable, str(PROGRAM), str(folder), QUESTION, *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    return ended.stderr.strip()


def test_a_folder_without_texts_is_an_error(tmp_path: Path) -> None:
    assert end_of(tmp_path) == f"{tmp_path} has no texts"


def test_a_server_that_does_not_run_is_an_error(texts: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # without listening
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert end_of(texts, "--url", url).startswith(f"no answer from {url}: ")
