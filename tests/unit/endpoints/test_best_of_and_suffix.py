"""`best_of` and `suffix` of POST /v1/completions."""

from __future__ import annotations

from typing import Any

import pytest

from support.toy_model import ToyBackend
from unit.endpoints.conftest import (
    MID,
    PRE,
    SUF,
    InfillTokenizer,
    InfillTokenizerWithBos,
    Open,
    alphabet,
    read_events,
)

PATH = "/v1/completions"
HOT = {"temperature": 8, "samplers": ["temperature"], "max_tokens": 6, "return_tokens": True}


async def complete(client: Any, **fields: Any) -> Any:
    response = await client.post(PATH, json=fields)
    assert response.status_code == 200, response.text
    return response.json()


async def test_best_of_returns_the_likeliest_choices(opened: Open) -> None:
    async with opened() as client:
        alone = [(await complete(client, prompt="a", seed=seed, logprobs=0, **HOT))["choices"][0] for seed in range(6)]
        logprobs = [choice["logprobs"]["token_logprobs"] for choice in alone]
        means = [sum(values) / len(values) for values in logprobs]
        order = sorted(range(6), key=lambda i: -means[i])
        assert order[:2] != [0, 1], "with these seeds the likeliest are the first, which proves nothing"

        best = await complete(client, prompt="a", seed=0, n=2, best_of=6, **HOT)
        assert [choice["tokens"] for choice in best["choices"]] == [alone[i]["tokens"] for i in order[:2]]
        assert [choice["index"] for choice in best["choices"]] == [0, 1]
        assert best["choices"][0]["logprobs"] is None  # the request does not ask for them
        assert best["usage"]["completion_tokens"] == sum(map(len, logprobs))
        assert best["usage"]["prompt_tokens"] == 1


async def test_best_of_chooses_for_each_prompt(opened: Open) -> None:
    fields = {"seed": 3, "best_of": 4, "logprobs": 1, "echo": True, **HOT}
    async with opened() as client:
        both = await complete(client, prompt=["a", "p"], **fields)
        alone = [await complete(client, prompt=prompt, **fields) for prompt in "ap"]
    assert [choice["text"] for choice in both["choices"]] == [answer["choices"][0]["text"] for answer in alone]
    n_logprobs = [len(choice["logprobs"]["tokens"]) for choice in both["choices"]]
    assert n_logprobs == [1 + len(choice["tokens"]) for choice in both["choices"]]  # 1 is the echoed prompt


@pytest.mark.parametrize(
    ("prompt", "settings", "tokens"),
    [
        ("a", {}, [PRE, 97, SUF, 98, 99, MID]),
        ([97, "k"], {}, [PRE, 97, 107, SUF, 98, 99, MID]),
        ("a", {"spm_infill": True}, [SUF, 98, 99, PRE, 97, MID]),
        ("", {}, [PRE, SUF, 98, 99, MID]),
    ],
)
async def test_suffix_makes_an_infill_prompt(
    opened: Open, prompt: Any, settings: dict[str, Any], tokens: list[int]
) -> None:
    backend = ToyBackend(alphabet)
    async with opened(tokenizer=InfillTokenizer(), backend=backend, **settings) as client:
        answer = await complete(client, prompt=prompt, suffix="bc", max_tokens=1, echo=True)
    assert backend.slots[0][: len(tokens)] == tokens
    assert answer["usage"]["prompt_tokens"] == len(tokens)
    assert answer["choices"][0]["text"].startswith(prompt if isinstance(prompt, str) else "ak")


async def test_suffix_applies_to_several_prompts(opened: Open) -> None:
    async with opened(tokenizer=InfillTokenizerWithBos()) as client:
        body = {"prompt": ["a", "bcd"], "suffix": "x", "max_tokens": 1, "stream": True}
        response = await client.post(PATH, json=body | {"stream_options": {"include_usage": True}})
    assert read_events(response.text)[-2]["usage"]["prompt_tokens"] == 6 + 8


async def test_suffix_needs_a_model_with_infill_tokens(opened: Open) -> None:
    async with opened() as client:
        error = (await client.post(PATH, json={"prompt": "a", "suffix": "b"})).json()["error"]
    assert (error["code"], error["param"]) == (501, "suffix")
    assert "prefix token is missing" in error["message"]
