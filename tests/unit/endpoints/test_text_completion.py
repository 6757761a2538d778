"""POST /v1/completions, on a model that continues the alphabet."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import Completion

from unit.endpoints.conftest import Post

pytestmark = pytest.mark.asyncio(loop_scope="module")
PATH = "/v1/completions"
GREEDY = {"temperature": 0}


@pytest.mark.inventory("F-05", "D-22", "T-01")
async def test_response_has_openais_shape(post: Post) -> None:
    response = await post(PATH, model="any", prompt="ab", max_tokens=3, cache_prompt=False, **GREEDY)
    assert Completion.model_validate(response).id.startswith("cmpl-")
    assert (response["object"], response["model"], response["truncated"]) == ("text_completion", "any", False)
    assert response["choices"] == [{"index": 0, "text": "cde", "finish_reason": "length", "logprobs": None}]
    assert response["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 3,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


async def test_finish_reason_is_stop_at_the_end_of_sequence(post: Post) -> None:
    response = await post(PATH, prompt="w", **GREEDY)
    assert response["model"] == "toy"
    assert (response["choices"][0]["text"], response["choices"][0]["finish_reason"]) == ("xyz", "stop")


async def test_prompts_have_n_choices_each(post: Post, events: Post) -> None:
    fields: dict[str, Any] = {"prompt": ["a", "k"], "n": 2, "max_tokens": 2, **GREEDY}
    response = await post(PATH, **fields)
    assert [choice["index"] for choice in response["choices"]] == [0, 1, 2, 3]
    assert [choice["text"] for choice in response["choices"]] == ["bc", "bc", "lm", "lm"]
    assert (response["usage"]["prompt_tokens"], response["usage"]["completion_tokens"]) == (2, 8)

    *chunks, usage, done = await events(PATH, **fields, stream_options={"include_usage": True})
    texts = dict.fromkeys(range(4), "")
    for chunk in chunks:
        Completion.model_validate({**chunk, "choices": [{**chunk["choices"][0], "finish_reason": "stop"}]})
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert list(texts.values()) == ["bc", "bc", "lm", "lm"]
    assert (usage["choices"], done) == ([], "[DONE]")
    assert usage["usage"]["completion_tokens"] == 8


async def test_choices_have_consecutive_seeds(post: Post) -> None:
    hot = {"temperature": 50, "samplers": ["temperature"], "return_tokens": True, "max_tokens": 9, "ignore_eos": True}
    both = await post(PATH, prompt="a", n=2, seed=2**32 - 2, **hot)
    alone = [await post(PATH, prompt="a", seed=seed, **hot) for seed in (2**32 - 2, 0)]
    assert [choice["tokens"] for choice in both["choices"]] == [one["choices"][0]["tokens"] for one in alone]


async def test_logprobs_are_the_same_in_a_stream(post: Post, events: Post) -> None:
    fields: dict[str, Any] = {"prompt": "ab", "max_tokens": 2, "logprobs": 2, **GREEDY}
    choice = (await post(PATH, **fields))["choices"][0]
    assert choice["text"] == "cd"
    logprobs = choice["logprobs"]
    assert (logprobs["tokens"], logprobs["text_offset"]) == (["c", "d"], [0, 1])
    assert [list(top)[0] for top in logprobs["top_logprobs"]] == ["c", "d"]
    assert [top[name] for top, name in zip(logprobs["top_logprobs"], "cd", strict=True)] == logprobs["token_logprobs"]

    chunks = [chunk["choices"][0] for chunk in (await events(PATH, **fields))[:-1]]
    assert "".join(chunk["text"] for chunk in chunks) == "cd"
    for name, values in logprobs.items():
        assert [value for chunk in chunks for value in chunk["logprobs"][name]] == values


async def test_logprobs_0_reports_the_token_only(post: Post) -> None:
    logprobs = (await post(PATH, prompt="a", max_tokens=1, logprobs=0, **GREEDY))["choices"][0]["logprobs"]
    assert (logprobs["tokens"], logprobs["top_logprobs"]) == (["b"], [{}])


async def test_prompt_of_token_ids_is_echoed_as_text(post: Post) -> None:
    assert (await post(PATH, prompt=[97, 98], max_tokens=1, echo=True, **GREEDY))["choices"][0]["text"] == "abc"


async def test_prompt_is_echoed_without_an_answer(events: Post) -> None:
    chunks = (await events(PATH, prompt="ab", max_tokens=0, echo=True))[:-1]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "ab"


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"suffix": "x"}, 501, "suffix"),
        ({"image_data": [{"data": "", "id": 1}]}, 400, "image_data"),
        ({"best_of": 1, "n": 2}, 400, "best_of"),
        ({"best_of": 3, "n": 2, "stream": True}, 400, "best_of"),
        ({"best_of": 128, "prompt": ["a"] * 9}, 400, "n"),
        ({"n": 0}, 400, "n"),
        ({"n": 128, "prompt": ["a"] * 9}, 400, "n"),
        ({"logprobs": True}, 400, "logprobs"),
        ({"stream_options": 5}, 400, "stream_options"),
        ({"grammar": "x"}, 400, "grammar"),
    ],
)
async def test_invalid_fields_name_the_field(refused: Post, fields: dict[str, Any], status: int, param: str) -> None:
    assert (await refused(PATH, **{"prompt": "a", **fields}))[:2] == (status, param)


async def test_values_without_effect_are_accepted(post: Post) -> None:
    unset: dict[str, Any] = {"suffix": "", "best_of": 1, "echo": False, "logprobs": None, "user": "me", "n": None}
    assert len((await post(PATH, prompt="a", max_tokens=1, **unset))["choices"]) == 1
    assert len((await post(PATH, prompt="a", max_tokens=1, n=2, best_of=2))["choices"]) == 2
