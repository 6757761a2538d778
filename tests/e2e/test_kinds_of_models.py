"""What slots reuse on models of each kind, with the Numba backend: answers are those of a new server, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from checkpoints import all_checkpoints, write
from llamafw import SettingsError

CHECKPOINTS = {one.name: one for one in all_checkpoints()}
KINDS = {"plain": "llama", "windows": "gemma3", "delta nets": "qwen35", "convolutions": "lfm2", "Mamba-2": "nemotron_h"}
N_CTX = 192
EVERY_NAME = pytest.mark.parametrize("name", KINDS.values(), ids=KINDS)
SPARE = 16  # how many tokens before the end of a prompt the snapshot is at most

Open = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def opened(serve: Any, tmp_path: Path) -> Open:
    """Return a function that starts a server with a checkpoint, given its name."""

    def start(name: str, **settings: Any) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        path = tmp_path / f"{name}.gguf"
        if not path.exists():
            write(CHECKPOINTS[name], path)
        defaults: dict[str, Any] = {"backend": "numba", "threads": 1, "parallel": 1, "ctx_size": N_CTX}
        started: AbstractAsyncContextManager[httpx.AsyncClient] = serve(
            model=path, slot_save_path=str(tmp_path), **defaults | settings
        )
        return started

    return start


def text(seed: int, n: int) -> list[int]:
    """Return random tokens of plain text."""
    found: list[int] = np.random.default_rng(seed).integers(3, 259, n).tolist()
    return found


async def ask(client: httpx.AsyncClient, prompt: list[int], **fields: Any) -> dict[str, Any]:
    """Return a response with the probabilities of its tokens."""
    body = {"prompt": prompt, "n_predict": 6, "temperature": 0, "n_probs": 3, "ignore_eos": True, "return_tokens": True}
    response = await client.post("/completion", json=body | fields)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def same_answer(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Return whether two responses have the same tokens and probabilities."""
    return bool(a["tokens"] == b["tokens"] and a["completion_probabilities"] == b["completion_probabilities"])


@pytest.mark.inventory("K-03", "K-04", "E-042")
@EVERY_NAME
async def test_regenerating_and_editing_give_the_answers_of_a_new_server(opened: Open, name: str) -> None:
    prompt = text(1, 120)
    edited = [*prompt[:60], 9, *prompt[61:]]
    async with opened(name) as client:
        first = await ask(client, prompt[:80])
        answers = [await ask(client, one) for one in (prompt, prompt, edited, prompt)]
        fresh = [await ask(client, one, cache_prompt=False) for one in (prompt[:80], prompt, edited)]
    assert [answer["tokens_cached"] for answer in fresh] == [0, 0, 0]
    assert same_answer(first, fresh[0])
    for answer, expected in zip(answers, (1, 1, 2, 1), strict=True):
        assert same_answer(answer, fresh[expected])
    assert answers[0]["tokens_cached"] >= 80 - SPARE
    assert answers[1]["tokens_cached"] >= 120 - SPARE
    assert answers[2]["tokens_cached"] <= 60


@pytest.mark.inventory("C-119")
@EVERY_NAME
async def test_saved_slot_continues_in_another_server(opened: Open, name: str) -> None:
    prompt = text(1, 100)
    async with opened(name) as client:
        answer = await ask(client, prompt)
        saved = await client.post("/slots/0", params={"action": "save"}, json={"filename": "slot"})
        assert saved.status_code == 200, saved.text
        more = [*prompt, *answer["tokens"], 7, 8]
        expected = await ask(client, more, cache_prompt=False)

    async with opened(name, parallel=2, ctx_size=2 * N_CTX) as client:
        restored = await client.post("/slots/1", params={"action": "restore"}, json={"filename": "slot"})
        assert restored.status_code == 200, restored.text
        assert restored.json()["n_restored"] == saved.json()["n_saved"]
        continued = await ask(client, more, id_slot=1)
        again = await ask(client, prompt, id_slot=1)
    assert same_answer(continued, expected)
    assert continued["tokens_cached"] >= len(prompt)
    assert same_answer(again, answer)
    assert again["tokens_cached"] >= len(prompt) - SPARE


@pytest.mark.inventory("K-03")
@EVERY_NAME
async def test_prompt_cache_restores_conversations(opened: Open, name: str) -> None:
    prompts = [text(seed, 100) for seed in (1, 2)]
    async with opened(name) as client:
        answers = [await ask(client, prompt) for prompt in prompts]
        more = [[*prompt, *answer["tokens"], 7] for prompt, answer in zip(prompts, answers, strict=True)]
        continued = [await ask(client, prompt) for prompt in more]
        fresh = [await ask(client, prompt, cache_prompt=False) for prompt in more]
    for answer, expected in zip(continued, fresh, strict=True):
        assert same_answer(answer, expected)
        assert answer["tokens_cached"] >= 100 - SPARE


@EVERY_NAME
async def test_conversations_are_restored_from_the_disk(opened: Open, name: str, tmp_path: Path) -> None:
    folder = str(tmp_path / "states")
    prompts = [text(seed, 100) for seed in (1, 2)]
    async with opened(name, cache_disk=folder) as client:
        answers = [await ask(client, prompt) for prompt in prompts]
    more = [[*prompt, *answer["tokens"], 7] for prompt, answer in zip(prompts, answers, strict=True)]
    async with opened(name, cache_disk=folder, cache_ram=0) as client:
        continued = [await ask(client, prompt) for prompt in more]
        fresh = [await ask(client, prompt, cache_prompt=False) for prompt in more]
    for answer, expected in zip(continued, fresh, strict=True):
        assert same_answer(answer, expected)
        assert answer["tokens_cached"] >= 100 - SPARE


@pytest.mark.inventory("Q-09")
@EVERY_NAME
async def test_parts_are_moved_if_the_model_can(opened: Open, name: str) -> None:
    start, old, new = (text(seed, 40) for seed in (1, 2, 3))
    async with opened(name) as client:
        await ask(client, [*start, *old, *new])
        body = {"prompt": [*start, *new, 7], "n_predict": 4, "n_cache_reuse": 40}
        response = await client.post("/completion", json=body)
    if name in ("llama", "gemma3"):  # the windows of this gemma3 keep all positions: the context is short
        assert response.json()["tokens_cached"] == 80
    else:
        assert (response.status_code, response.json()["error"]["param"]) == (501, "n_cache_reuse")


async def test_cache_reuse_is_refused_at_start_if_the_model_cannot(opened: Open) -> None:
    with pytest.raises(SettingsError, match="--cache-reuse 64: parts of a cached prompt cannot be moved"):
        async with opened("qwen35", cache_reuse=64):
            pass


@pytest.mark.inventory("K-05", "K-06")
@EVERY_NAME
async def test_generation_goes_on_beyond_the_context(opened: Open, name: str) -> None:
    prompt, other = text(1, 60), text(2, 60)
    fields: dict[str, Any] = {"n_predict": N_CTX + 50, "n_keep": 20}
    async with opened(name, parallel=2, ctx_size=2 * N_CTX) as client:
        first = await ask(client, prompt, **fields)
        await ask(client, other, **fields)
        again = await ask(client, prompt, **fields, cache_prompt=False)
    assert (first["tokens_predicted"], first["truncated"], first["stop_type"]) == (N_CTX + 50, True, "limit")
    assert same_answer(first, again)
    assert all(np.isfinite(one["logprob"]) for one in first["completion_probabilities"])
