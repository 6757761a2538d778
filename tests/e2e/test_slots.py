"""Context shift, prompt cache and queue limit with the default model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llamafw.testing.process import ServerProcess, running_server

STORY = "Once upon a time, in a small village by the sea, there lived an old fisherman. Every morning he "
GREEDY = {"temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def small(real_model: Path) -> Iterator[ServerProcess]:
    """Yield a server with one slot of 256 tokens and without a queue."""
    with running_server(real_model, "-c", "256", "-np", "1", "--max-queue", "0") as server:
        yield server


def complete(server: ServerProcess, prompt: str, **fields: Any) -> dict[str, Any]:
    answer = httpx.post(f"{server.url}/completion", json={"prompt": prompt, **GREEDY, **fields}, timeout=60)
    return dict(answer.json())


@pytest.mark.inventory("K-05", "E-058", "E-018")
def test_generation_continues_beyond_the_context(small: ServerProcess) -> None:
    found = complete(small, STORY, n_predict=400, n_keep=16)
    assert (found["tokens_predicted"], found["truncated"], found["stop_type"]) == (400, True, "limit")
    tail = found["content"][-300:]
    assert sum(char.isalpha() or char in " .,'\n" for char in tail) > 0.9 * len(tail)  # mostly letters


@pytest.mark.inventory("E-068", "E-055", "E-069")
def test_prompt_longer_than_the_context_is_400_or_truncated(small: ServerProcess) -> None:
    error = complete(small, STORY * 30, n_predict=8)["error"]
    assert (error["code"], error["type"], error["n_ctx"]) == (400, "exceed_context_size_error", 256)
    assert error["n_prompt_tokens"] > 256
    found = complete(small, STORY * 30, n_predict=8, truncate_prompt=True)
    assert found["truncated"]
    assert found["tokens_evaluated"] < 256
    assert found["tokens_predicted"] == 8


@pytest.mark.inventory("K-03", "E-05A")
def test_conversation_is_restored_from_the_prompt_cache(small: ServerProcess) -> None:
    story, other = STORY * 5, "The history of mathematics begins " * 15
    first = complete(small, story, n_predict=8)
    assert complete(small, other, n_predict=8)["tokens_cached"] == 0
    again = complete(small, story, n_predict=8)
    assert again["content"] == first["content"]
    assert again["tokens_cached"] == again["tokens_evaluated"] - 1


@pytest.mark.inventory("K-02", "P-07")
async def test_full_queue_is_429(small: ServerProcess) -> None:
    async with httpx.AsyncClient(base_url=small.url, timeout=60) as client:
        async with client.stream(
            "POST", "/completion", json={"prompt": STORY, "n_predict": -1, "stream": True, **GREEDY}
        ) as running:
            lines = running.aiter_lines()
            await anext(lines)
            refused = await client.post("/completion", json={"prompt": "x", "n_predict": 1})
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["type"] == "rate_limit_error"
            assert (await client.get("/health")).status_code == 200

        async with asyncio.timeout(60):  # after the disconnect, the slot is free within the time of one token
            while (await client.post("/completion", json={"prompt": "x", "n_predict": 1})).status_code != 200:
                pass


@pytest.mark.inventory("C-003", "C-022", "C-024", "C-039")
def test_preloaded_prompt_is_reused(real_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_text(STORY + "\n")
    flags = ("-c", "512", "-np", "2", "-f", str(path), "--verbose-prompt", "-dkvc")
    with running_server(real_model, *flags) as server:
        found = complete(server, STORY + "went", n_predict=2)
        fresh = complete(server, STORY + "went", n_predict=2, cache_prompt=False)
        server.wait_for(r"prompt of \d+ tokens: .*'Once'")
        server.wait_for(r"--file: \d+ tokens are in the cache")
        server.wait_for(r"KV cache: slot 0 .*, slot 1 generating \d+/256")

    # the last tokens of the story may differ, because a token may contain the start of the text that follows
    assert found["tokens_cached"] >= found["tokens_evaluated"] - 2
    assert found["content"] == fresh["content"]
