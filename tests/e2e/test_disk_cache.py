"""The prompt cache on disk, with real processes: SIGTERM stores prompts, and SIGKILL damages nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from llamafw.testing.process import ServerProcess, running_server
from llamafw.testing.tiny import write_tiny_gguf

PROMPT = np.random.default_rng(1).integers(0, 250, 100).tolist()


@pytest.fixture
def flags(tmp_path: Path) -> tuple[Any, ...]:
    """The model and the flags of a server of one slot."""
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    return model, "-np", "1", "-c", "128", "-t", "1", "--metrics", "--cache-disk", str(tmp_path / "states")


def complete(server: ServerProcess, prompt: list[int], **fields: Any) -> dict[str, Any]:
    body = {"prompt": prompt, "n_predict": 4, "temperature": 0, "ignore_eos": True, "return_tokens": True}
    response = httpx.post(f"{server.url}/completion", json=body | fields, timeout=60)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_prompt_survives_sigterm(flags: tuple[Any, ...]) -> None:
    with running_server(*flags) as server:
        first = complete(server, PROMPT)
        assert server.terminate() == 0
        server.wait_for_end()
        assert any(re.search("states written to .*: 1$", line.rstrip()) for line in server.output)
    with running_server(*flags) as server:
        again = complete(server, PROMPT)
        metrics = httpx.get(f"{server.url}/metrics").text
    assert (again["tokens"], again["tokens_cached"]) == (first["tokens"], 99)
    assert "llamafw_disk_cache_reads_total 1.0" in metrics
    assert "llamafw_disk_cache_failures_total 0.0" in metrics


def test_server_that_is_killed_loses_nothing_that_was_stored(flags: tuple[Any, ...]) -> None:
    with running_server(*flags) as server:
        first = complete(server, PROMPT)
        server.terminate()
    for _ in range(2):
        with running_server(*flags) as server:
            again = complete(server, PROMPT)
            assert (again["tokens"], again["tokens_cached"]) == (first["tokens"], 99)
            complete(server, PROMPT[::-1])
            server.process.kill()


def test_folder_that_cannot_be_used_stops_the_start(flags: tuple[Any, ...]) -> None:
    model, *others = flags
    with running_server(model, *others, "--cache-disk", str(model), ready=False) as server:
        assert server.process.wait(60) == 2
        server.wait_for_end()
    assert any("--cache-disk" in line and "cannot be used" in line for line in server.output)


@pytest.mark.inventory("V-11")
def test_idle_server_sleeps_and_wakes(flags: tuple[Any, ...]) -> None:
    with running_server(*flags, "--sleep-idle-seconds", "0") as server:
        server.wait_for("asleep after 0 s")
        props = httpx.get(f"{server.url}/props").json()
        assert (props["is_sleeping"], props["total_slots"]) == (True, 1)
        for path in ("/health", "/v1/models", "/slots"):
            assert httpx.get(f"{server.url}{path}").status_code == 200
        assert "llamafw_sleeping 1.0" in httpx.get(f"{server.url}/metrics").text
        assert httpx.post(f"{server.url}/tokenize", json={"content": "abc"}).status_code == 200
        assert not any("awake" in line for line in server.output)

        first = complete(server, PROMPT)
        server.wait_for("awake: the model was loaded")
        server.wait_for("asleep after 0 s")
        again = complete(server, PROMPT)
    assert (again["tokens"], again["tokens_cached"]) == (first["tokens"], 99)  # from the disk
