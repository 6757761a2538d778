"""The request fields `return_progress`, `timings_per_token` and `response_fields`."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from unit.endpoints.conftest import InfillTokenizer, Open, Post

pytestmark = pytest.mark.asyncio(loop_scope="module")
GREEDY = {"temperature": 0}
REQUESTS: dict[str, dict[str, Any]] = {
    "/completion": {"prompt": "q" * 50 + "w"},
    "/v1/completions": {"prompt": "q" * 50 + "w"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "q" * 46}]},  # 51 tokens with the template
}


def progress_of(events: list[Any]) -> list[tuple[int, int, int]]:
    progress = [event["prompt_progress"] for event in events if "prompt_progress" in event]
    times = [each["time_ms"] for each in progress]
    assert times == sorted(times)
    return [(each["cache"], each["processed"], each["total"]) for each in progress]


@pytest.mark.inventory("Q-04")
@pytest.mark.parametrize("path", REQUESTS)
async def test_stream_reports_prompt_progress(events: Post, path: str) -> None:
    """A batch has 32 tokens, so the prompt needs two batches, and one when it is cached."""
    fields = {**REQUESTS[path], "n_predict": 2, "return_progress": True, **GREEDY}
    first = await events(path, **fields, cache_prompt=False)
    assert progress_of(first) == [(0, 0, 51), (0, 32, 51), (0, 51, 51)]
    assert progress_of(await events(path, **fields)) == [(50, 50, 51), (50, 51, 51)]
    plain = await events(path, **fields | {"return_progress": False})
    assert progress_of(plain) == []
    assert text_of(first) == text_of(plain)


async def test_prompts_have_their_own_progress(events: Post) -> None:
    chunks = await events("/completion", prompt=["q" * 40, "r" * 20], n_predict=1, return_progress=True)
    with_progress = [chunk for chunk in chunks if "prompt_progress" in chunk]
    assert {chunk["index"]: chunk["prompt_progress"]["total"] for chunk in with_progress} == {0: 40, 1: 20}
    assert {(chunk["content"], chunk["stop"]) for chunk in with_progress} == {("", False)}


@pytest.mark.inventory("Q-04", "E-05B")
@pytest.mark.parametrize("path", REQUESTS)
async def test_timings_per_token_are_in_every_chunk(events: Post, path: str) -> None:
    fields = {**REQUESTS[path], "n_predict": 3, "ignore_eos": True, "logit_bias": [[98, 100]], **GREEDY}
    timed = [event for event in await events(path, **fields, timings_per_token=True) if event != "[DONE]"]
    counts = [event["timings"]["predicted_n"] for event in timed if "timings" in event]
    assert counts[:3] == [1, 2, 3]
    assert counts[-1] == 3
    plain = [event for event in await events(path, **fields) if event != "[DONE]"]
    assert ["timings" in event for event in plain] == [False] * (len(plain) - 1) + [True]  # the last one has them


@pytest.mark.parametrize("path", REQUESTS)
async def test_whole_responses_have_no_progress(post: Post, path: str) -> None:
    fields = {**REQUESTS[path], "n_predict": 1, "return_progress": True, "timings_per_token": True}
    response = await post(path, **fields)
    assert response["timings"]["predicted_n"] == 1
    assert "prompt_progress" not in response


def text_of(events: list[Any]) -> str:
    choices = [event["choices"][0] for event in events if event != "[DONE]" and event.get("choices")]
    texts = [choice.get("text", choice.get("delta", {}).get("content")) or "" for choice in choices]
    return "".join(texts) + "".join(event["content"] for event in events if "content" in event)


@pytest.mark.inventory("Q-07")
@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["content"], {"content": "xyz"}),
        (
            ["content", "generation_settings/n_predict", "timings/predicted_n"],
            {"content": "xyz", "n_predict": 9, "predicted_n": 4},
        ),
        (["generation_settings/stop"], {"stop": ["!"]}),
        (["stop"], {"stop": True}),
        (["nothing", "content/x", "tokens", "tokens/0", "/content", "content/", "/"], {}),
        (
            ["tokens_predicted", "stop_type", "generation_settings"],
            {"tokens_predicted": 4, "stop_type": "eos", "generation_settings": {}},
        ),
    ],
)
async def test_response_fields_selects_fields(post: Post, paths: list[str], expected: dict[str, Any]) -> None:
    row = await post("/completion", prompt="w", n_predict=9, stop=["!"], response_fields=paths, **GREEDY)
    assert set(row) == set(expected)
    if "generation_settings" in row:
        assert row["generation_settings"]["n_predict"] == 9
        row["generation_settings"] = {}
    assert row == expected


@pytest.mark.inventory("Q-07")
async def test_response_fields_applies_to_arrays_streams_and_infill(post: Post, events: Post, opened: Open) -> None:
    fields: dict[str, Any] = {"prompt": ["w", "x"], "response_fields": ["index", "tokens_predicted"], **GREEDY}
    assert await post("/completion", **fields) == [
        {"index": 0, "tokens_predicted": 4},
        {"index": 1, "tokens_predicted": 3},
    ]

    *chunks, last = await events("/completion", **fields | {"prompt": "w"})
    assert "".join(chunk["content"] for chunk in chunks) == "xyz"
    assert last == {"index": 0, "tokens_predicted": 4}

    async with opened(tokenizer=InfillTokenizer()) as client:
        body = {"input_prefix": "a", "n_predict": 1, "response_fields": ["tokens_evaluated"]}
        assert (await client.post("/infill", json=body)).json() == {"tokens_evaluated": 4}


@pytest.mark.parametrize("paths", [None, []])
async def test_empty_response_fields_return_all(post: Post, paths: Any) -> None:
    assert "generation_settings" in await post("/completion", prompt="w", n_predict=1, response_fields=paths)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_fields": "content"}, "response_fields"),
        ({"response_fields": [5]}, "response_fields.0"),
        ({"response_fields": [""]}, "response_fields.0"),
        ({"return_progress": 1}, "return_progress"),
        ({"timings_per_token": "yes"}, "timings_per_token"),
    ],
)
async def test_invalid_fields_are_400(refused: Post, fields: dict[str, Any], param: str) -> None:
    assert (await refused("/completion", prompt="a", **fields))[:2] == (400, param)


async def test_openai_operations_ignore_response_fields(client: httpx.AsyncClient) -> None:
    body = {"prompt": "w", "max_tokens": 1, "response_fields": ["content"]}
    response = await client.post("/v1/completions", json=body)
    assert response.headers["x-llamafw-ignored-fields"] == "response_fields"
    assert response.json()["object"] == "text_completion"


async def test_held_back_text_is_sent_with_timings(events: Post) -> None:
    """Nothing is sent until it is certain that the stop string does not follow."""
    fields = {"prompt": "a", "n_predict": 4, "stop": ["bcx"], "timings_per_token": True, **GREEDY}
    first = (await events("/completion", **fields))[0]
    assert (first["content"], first["timings"]["predicted_n"]) == ("bcd", 3)
