"""A prompt that does not fit into the context is a 400 on every operation; `truncate_prompt` shortens it instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llamafw.engine.dense_layers import DenseLayer
from llamafw.engine.rank_head import RankHead
from support.toy_model import N_EMBD, ToyBackend
from unit.endpoints.conftest import MID, PRE, REP, SEP, SUF, InfillTokenizer, Open, alphabet, read_events

pytestmark = pytest.mark.slow

N_CTX = 64
LONG = "x" * 99
GREEDY = {"temperature": 0}
RANK_HEAD = RankHead(None, DenseLayer(np.eye(1, N_EMBD), np.zeros(1)))


def chat(content: str) -> dict[str, Any]:
    """Return a chat request.

    The template adds 5 tokens: ``u:``, ``;`` and ``a:``.
    """
    return {"messages": [{"role": "user", "content": content}]}


@pytest.mark.inventory("E-068", "E-069")
@pytest.mark.parametrize("context_shift", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "n", "param", "settings"),
    [
        ("/completion", {"prompt": LONG}, 99, "prompt", {}),
        ("/completion", {"prompt": "x" * 64}, 64, "prompt", {}),  # there is no room for an answer
        ("/completion", {"prompt": LONG, "stream": True}, 99, "prompt", {}),
        ("/completion", {"prompt": ["a", LONG]}, 99, "prompt.1", {}),
        ("/v1/completions", {"prompt": LONG}, 99, "prompt", {}),
        ("/v1/completions", {"prompt": ["a", LONG], "n": 2}, 99, "prompt.1", {}),
        ("/v1/completions", {"prompt": LONG, "suffix": "y"}, 99 + 4, "prompt", {}),
        ("/v1/completions", {"prompt": LONG, "echo": True, "logprobs": 0, "max_tokens": 0}, 99, "prompt", {}),
        ("/v1/chat/completions", chat(LONG), 99 + 5, "messages", {}),
        ("/v1/chat/completions", {**chat(LONG), "n": 2, "stream": True}, 99 + 5, "messages", {}),
        ("/infill", {"input_prefix": LONG}, 99 + 3, "prompt", {}),
        ("/embedding", {"content": "x" * 65}, 65, "content", {}),
        ("/embedding", {"content": ["a", LONG]}, 99, "content.1", {}),
        ("/v1/embeddings", {"input": LONG}, 99, "input", {}),
        ("/rerank", {"query": "q", "documents": ["a", LONG]}, 99 + 4, "documents.1", {"reranking": True}),
    ],
)
async def test_prompt_that_does_not_fit_is_400(
    opened: Open, path: str, body: Any, n: int, param: str, settings: dict[str, Any], context_shift: bool
) -> None:
    settings = {"context_shift": context_shift, "rank_head": RANK_HEAD, **settings}
    async with opened(tokenizer=InfillTokenizer(), **settings) as client:
        response = await client.post(path, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "exceed_context_size_error", param)
    assert (error["n_prompt_tokens"], error["n_ctx"]) == (n, N_CTX)
    can_truncate = "embedding" not in path and "rerank" not in path and not (body.get("echo") and "logprobs" in body)
    assert error["message"].endswith("; truncate_prompt: true shortens it") is can_truncate
    if "embedding" in path:
        size = f"it has {n} tokens, but the context of a slot has only {N_CTX}"
        assert error["message"] == f"{param} is too large to embed: {size}; truncate: true cuts it"


@pytest.mark.parametrize(
    ("n", "reason"),
    [
        (64, "the prompt has 64 tokens and leaves no room for an answer in a slot's context"),
        (65, "the prompt has 65 tokens, but the context of a slot has only 64"),
    ],
)
async def test_error_says_what_to_do(opened: Open, n: int, reason: str) -> None:
    async with opened() as client:
        error = (await client.post("/completion", json={"prompt": "x" * n})).json()["error"]
    assert error["message"] == f"{reason}; truncate_prompt: true shortens it"


async def test_error_has_the_index_of_the_prompt(opened: Open) -> None:
    async with opened() as client:
        error = (await client.post("/completion", json={"prompt": ["a", LONG]})).json()["error"]
    assert error["index"] == 1


# --- truncate_prompt

REQUESTS: dict[str, dict[str, Any]] = {
    "/completion": {"prompt": f"{LONG}w"},
    "/v1/completions": {"prompt": f"{LONG}w"},
    "/v1/chat/completions": chat(LONG),
}


@pytest.mark.inventory("E-055", "E-068")
@pytest.mark.parametrize("path", REQUESTS)
async def test_truncate_prompt_keeps_the_end(opened: Open, path: str) -> None:
    backend = ToyBackend(alphabet, n_slots=1, n_ctx=N_CTX)
    async with opened(backend=backend) as client:
        body = {**REQUESTS[path], "n_predict": 2, "truncate_prompt": True, **GREEDY}
        response = (await client.post(path, json=body)).json()
        *chunks, end = [
            each
            for each in read_events((await client.post(path, json={**body, "stream": True})).text)
            if each != "[DONE]"
        ]

    n_prompt = response["tokens_evaluated"] if path == "/completion" else response["usage"]["prompt_tokens"]
    assert response["truncated"] is True
    assert 0 < n_prompt < N_CTX
    assert bytes(backend.slots[0][:n_prompt]).endswith(b";a:" if "chat" in path else b"xw")
    assert end["truncated"] is True
    assert chunks
    assert not any("truncated" in chunk for chunk in chunks)


@pytest.mark.parametrize("path", REQUESTS)
async def test_truncate_prompt_leaves_short_prompts_alone(opened: Open, path: str) -> None:
    body = {**REQUESTS[path], "n_predict": 2, "truncate_prompt": True, **GREEDY}
    async with opened(n_ctx=256) as client:
        assert (await client.post(path, json=body)).json()["truncated"] is False


async def test_truncate_prompt_keeps_n_keep_tokens(opened: Open) -> None:
    backend = ToyBackend(alphabet, n_slots=1, n_ctx=N_CTX)
    async with opened(backend=backend) as client:
        body = {"prompt": f"abc{LONG}w", "n_keep": 3, "n_predict": 1, "truncate_prompt": True, **GREEDY}
        row = (await client.post("/completion", json=body)).json()
    assert (row["truncated"], row["generation_settings"]["truncate_prompt"]) == (True, True)
    assert bytes(backend.slots[0][: row["tokens_evaluated"]]).startswith(b"abcx")


@pytest.mark.parametrize("value", [None, False])
async def test_truncate_prompt_is_off_by_default(opened: Open, value: bool | None) -> None:
    async with opened(context_shift=True) as client:
        response = await client.post("/completion", json={"prompt": LONG, "truncate_prompt": value})
    assert response.json()["error"]["type"] == "exceed_context_size_error"


async def test_context_shift_while_generating_is_truncated(opened: Open) -> None:
    async with opened(context_shift=True) as client:
        body = {"prompt": "a", "n_predict": 200, "ignore_eos": True, **GREEDY}
        row = (await client.post("/completion", json=body)).json()
        response = (await client.post("/v1/completions", json=body)).json()
    assert (row["truncated"], row["tokens_predicted"]) == (True, 200)
    assert (response["truncated"], response["usage"]["completion_tokens"]) == (True, 200)


# --- truncate_prompt of infill: 48 of the 64 tokens are for the prompt, the others for the answer


@pytest.mark.inventory("E-068")
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # 48 tokens without 3 special tokens are 45; 11 of these, a quarter, are for the suffix
        ({"input_prefix": "p" * 60, "input_suffix": "s" * 60}, [PRE, *b"p" * 34, SUF, *b"s" * 11, MID]),
        ({"input_prefix": "p" * 10, "input_suffix": "s" * 60}, [PRE, *b"p" * 10, SUF, *b"s" * 35, MID]),
        ({"input_prefix": "p" * 60, "input_suffix": "s" * 5}, [PRE, *b"p" * 40, SUF, *b"s" * 5, MID]),
        ({"input_prefix": f"{LONG}end", "input_suffix": "s"}, [PRE, *b"x" * 41, *b"end", SUF, *b"s", MID]),
        (
            {"input_prefix": "p", "input_suffix": f"s{LONG}", "prompt": "mmm"},
            [PRE, *b"p", SUF, *b"s", *b"x" * 40, MID, *b"mmm"],
        ),
    ],
)
async def test_truncated_infill_keeps_text_near_the_middle(opened: Open, body: Any, expected: list[int]) -> None:
    async with opened(tokenizer=InfillTokenizer(), context_shift=True) as client:
        row = (await client.post("/infill", json={**body, "n_predict": 1, "truncate_prompt": True})).json()
    assert row["prompt"] == expected
    assert (row["truncated"], row["tokens_evaluated"]) == (True, 48)


async def test_truncated_infill_drops_the_first_files(opened: Open) -> None:
    files = [{"filename": "a", "text": "a" * 40}, {"filename": "b", "text": "b" * 20}]
    async with opened(tokenizer=InfillTokenizer()) as client:
        body = {"input_extra": files, "input_prefix": "p", "n_predict": 1, "truncate_prompt": True}
        row = (await client.post("/infill", json=body)).json()
    assert row["prompt"] == [REP, *b"repository\n", SEP, *b"b\n", *b"b" * 20, PRE, *b"p", SUF, MID]
    assert row["truncated"] is True


@pytest.mark.parametrize(
    ("path", "body", "n_ctx", "param", "index"),
    [
        ("/infill", {"prompt": LONG}, N_CTX, "prompt", None),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}, 3, "prompt", None),
        ("/v1/completions", {"prompt": ["a", "b"], "suffix": "c"}, 3, "prompt.0", 0),
    ],
)
async def test_infill_that_cannot_be_shortened_is_400(
    opened: Open, path: str, body: dict[str, Any], n_ctx: int, param: str, index: int | None
) -> None:
    async with opened(tokenizer=InfillTokenizer(), n_ctx=n_ctx) as client:
        response = await client.post(path, json={**body, "truncate_prompt": True})
    error = response.json()["error"]
    assert (error["code"], error["type"], error["param"]) == (400, "exceed_context_size_error", param)
    assert error.get("index") == index
    assert error["message"].endswith(f"the context of a slot has only {n_ctx}")


async def test_truncate_prompt_shortens_suffix_completions(opened: Open) -> None:
    async with opened(tokenizer=InfillTokenizer()) as client:
        body = {"prompt": ["a", LONG], "suffix": "y" * 99, "max_tokens": 1, "truncate_prompt": True, "echo": True}
        response = (await client.post("/v1/completions", json=body)).json()
        chunks = read_events((await client.post("/v1/completions", json={**body, "stream": True})).text)[:-1]
    assert response["truncated"] is True
    assert response["usage"]["prompt_tokens"] == 48 + 48
    assert response["choices"][1]["text"].startswith(LONG)  # the echo is the prompt as it was sent
    ends = [chunk["truncated"] for chunk in chunks if chunk["choices"][0]["finish_reason"]]
    assert ends == [True, True]
