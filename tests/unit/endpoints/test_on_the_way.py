"""What a client may ask to hear of its request: `return_progress`, `timings_per_token`, `response_fields`."""

from __future__ import annotations

from typing import Any

import pytest

from support.toy import ToyTokenizer
from unit.endpoints.test_infill import Coder

pytestmark = pytest.mark.asyncio(loop_scope="module")
Client = Any
GREEDY = {"temperature": 0}
STREAMS = {
    "/completion": {"prompt": "q" * 50 + "w"},
    "/v1/completions": {"prompt": "q" * 50 + "w"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "q" * 46}]},  # with the template, 51
}


def progress_of(events: list[Any]) -> list[tuple[int, int, int]]:
    found = [event["prompt_progress"] for event in events if "prompt_progress" in event]
    times = [each["time_ms"] for each in found]
    assert times == sorted(times)
    return [(each["cache"], each["processed"], each["total"]) for each in found]


@pytest.mark.inventory("Q-04")
@pytest.mark.parametrize("path", STREAMS)
async def test_how_far_the_prompt_has_been_evaluated(events: Client, path: str) -> None:
    """A step takes 32 tokens, so that one prompt needs two steps and a cached one needs one."""
    fields = {**STREAMS[path], "n_predict": 2, "return_progress": True, **GREEDY}
    first = await events(path, **fields, cache_prompt=False)
    assert progress_of(first) == [(0, 0, 51), (0, 32, 51), (0, 51, 51)]
    assert progress_of(await events(path, **fields)) == [(50, 50, 51), (50, 51, 51)]
    plain = await events(path, **fields | {"return_progress": False})
    assert progress_of(plain) == []
    assert text_of(first) == text_of(plain)


async def test_each_prompt_has_its_own_progress(events: Client) -> None:
    chunks = await events("/completion", prompt=["q" * 40, "r" * 20], n_predict=1, return_progress=True)
    totals = {chunk["index"]: chunk["prompt_progress"]["total"] for chunk in chunks if "prompt_progress" in chunk}
    assert totals == {0: 40, 1: 20}
    assert all(chunk["content"] == "" and not chunk["stop"] for chunk in chunks if "prompt_progress" in chunk)


@pytest.mark.inventory("Q-04", "E-05B")
@pytest.mark.parametrize("path", STREAMS)
async def test_the_timings_of_every_piece(events: Client, path: str) -> None:
    fields = {**STREAMS[path], "n_predict": 3, "ignore_eos": True, "logit_bias": [[98, 100]], **GREEDY}
    found = [event for event in await events(path, **fields, timings_per_token=True) if event != "[DONE]"]
    counts = [event["timings"]["predicted_n"] for event in found if "timings" in event]
    assert counts[:3] == [1, 2, 3]
    assert counts[-1] == 3
    plain = [event for event in await events(path, **fields) if event != "[DONE]"]
    assert ["timings" in event for event in plain] == [False] * (len(plain) - 1) + [True]  # at the end anyhow


@pytest.mark.parametrize("path", STREAMS)
async def test_whole_answers_have_timings_and_no_progress(post: Client, path: str) -> None:
    fields = {**STREAMS[path], "n_predict": 1, "return_progress": True, "timings_per_token": True}
    found = await post(path, **fields)
    assert found["timings"]["predicted_n"] == 1
    assert "prompt_progress" not in found


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
async def test_fields_of_the_answer(post: Client, paths: list[str], expected: dict[str, Any]) -> None:
    found = await post("/completion", prompt="w", n_predict=9, stop=["!"], response_fields=paths, **GREEDY)
    if "generation_settings" in found:
        assert found["generation_settings"]["n_predict"] == 9
        found["generation_settings"] = {}
    assert found == expected


@pytest.mark.inventory("Q-07")
async def test_fields_of_several_answers_and_of_streams(post: Client, events: Client, opened: Any) -> None:
    fields = {"prompt": ["w", "x"], "response_fields": ["index", "tokens_predicted"], **GREEDY}
    assert await post("/completion", **fields) == [
        {"index": 0, "tokens_predicted": 4},
        {"index": 1, "tokens_predicted": 3},
    ]
    chunks = await events("/completion", **fields | {"prompt": "w"})
    assert "".join(chunk["content"] for chunk in chunks[:-1]) == "xyz"
    assert chunks[-1] == {"index": 0, "tokens_predicted": 4}
    async with opened(tokenizer=Coder()) as client:
        body = {"input_prefix": "a", "n_predict": 1, "response_fields": ["tokens_evaluated"]}
        assert (await client.post("/infill", json=body)).json() == {"tokens_evaluated": 4}


@pytest.mark.parametrize("nothing", [None, []])
async def test_no_fields_are_all_fields(post: Client, nothing: Any) -> None:
    assert "generation_settings" in await post("/completion", prompt="w", n_predict=1, response_fields=nothing)


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
async def test_what_is_refused(refused: Client, fields: dict[str, Any], param: str) -> None:
    assert (await refused("/completion", prompt="a", **fields))[:2] == (400, param)


async def test_openais_operations_know_no_response_fields(client: Client) -> None:
    body = {"prompt": "w", "max_tokens": 1, "response_fields": ["content"]}
    response = await client.post("/v1/completions", json=body)
    assert response.headers["x-llamafw-ignored-fields"] == "response_fields"
    assert response.json()["object"] == "text_completion"


async def test_withheld_text_has_timings_when_it_comes(opened: Any) -> None:
    """While a stop string may be coming nothing is sent; the piece that ends the doubt tells the time."""
    async with opened(tokenizer=ToyTokenizer()) as client:
        body = {"prompt": "a", "n_predict": 4, "stop": ["bcx"], "stream": True, "timings_per_token": True, **GREEDY}
        first = (await client.post("/completion", json=body)).text.split("\n\n")[0]
        assert '"content":"bcd"' in first
        assert '"predicted_n":3' in first
