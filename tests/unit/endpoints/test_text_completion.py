"""POST /v1/completions, on a model that goes on with the alphabet."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import Completion

pytestmark = pytest.mark.asyncio(loop_scope="module")
Client = Any
PATH = "/v1/completions"
GREEDY = {"temperature": 0}


@pytest.mark.inventory("F-05", "D-22", "T-01")
async def test_the_whole_object(post: Client) -> None:
    found = await post(PATH, model="any", prompt="ab", max_tokens=3, cache_prompt=False, **GREEDY)
    assert Completion.model_validate(found).id.startswith("cmpl-")
    assert found["object"] == "text_completion"
    assert found["model"] == "any"
    assert found["choices"] == [{"index": 0, "text": "cde", "finish_reason": "length", "logprobs": None}]
    assert found["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 3,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


async def test_an_answer_that_ends_by_itself(post: Client) -> None:
    found = await post(PATH, prompt="w", **GREEDY)
    assert (found["model"], found["choices"][0]["text"], found["choices"][0]["finish_reason"]) == ("toy", "xyz", "stop")


async def test_several_prompts_and_several_answers(post: Client, events: Client) -> None:
    fields = {"prompt": ["a", "k"], "n": 2, "max_tokens": 2, **GREEDY}
    found = await post(PATH, **fields)
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2, 3]
    assert [choice["text"] for choice in found["choices"]] == ["bc", "bc", "lm", "lm"]
    assert (found["usage"]["prompt_tokens"], found["usage"]["completion_tokens"]) == (2, 8)
    *chunks, usage, done = await events(PATH, **fields, stream_options={"include_usage": True})
    texts = dict.fromkeys(range(4), "")
    for chunk in chunks:
        Completion.model_validate({**chunk, "choices": [{**chunk["choices"][0], "finish_reason": "stop"}]})
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert list(texts.values()) == ["bc", "bc", "lm", "lm"]
    assert (usage["choices"], done) == ([], "[DONE]")
    assert usage["usage"]["completion_tokens"] == 8


async def test_answers_to_one_prompt_have_seeds_in_a_row(post: Client) -> None:
    hot = {"temperature": 50, "samplers": ["temperature"], "return_tokens": True, "max_tokens": 9, "ignore_eos": True}
    both = await post(PATH, prompt="a", n=2, seed=2**32 - 2, **hot)
    alone = [await post(PATH, prompt="a", seed=seed, **hot) for seed in (2**32 - 2, 0)]
    assert [choice["tokens"] for choice in both["choices"]] == [one["choices"][0]["tokens"] for one in alone]


async def test_log_probabilities(post: Client, events: Client) -> None:
    fields = {"prompt": "ab", "max_tokens": 2, "logprobs": 2, **GREEDY}
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


async def test_log_probabilities_without_others(post: Client) -> None:
    logprobs = (await post(PATH, prompt="a", max_tokens=1, logprobs=0, **GREEDY))["choices"][0]["logprobs"]
    assert (logprobs["tokens"], logprobs["top_logprobs"]) == (["b"], [{}])


async def test_a_prompt_of_tokens_is_echoed_as_text(post: Client) -> None:
    assert (await post(PATH, prompt=[97, 98], max_tokens=1, echo=True, **GREEDY))["choices"][0]["text"] == "abc"


async def test_echo_of_an_answer_that_is_empty(events: Client) -> None:
    chunks = (await events(PATH, prompt="ab", max_tokens=0, echo=True))[:-1]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "ab"


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"suffix": "x"}, 501, "suffix"),
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
async def test_fields_that_cannot_be_met(refused: Client, fields: dict[str, Any], status: int, param: str) -> None:
    assert (await refused(PATH, **{"prompt": "a", **fields}))[:2] == (status, param)


async def test_forms_that_ask_for_nothing(post: Client) -> None:
    await post(PATH, prompt="a", max_tokens=1, suffix="", best_of=1, echo=False, logprobs=None, user="me", n=None)
    assert len((await post(PATH, prompt="a", max_tokens=1, n=2, best_of=2))["choices"]) == 2
