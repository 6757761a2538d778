"""`best_of` and `suffix` of POST /v1/completions."""

from __future__ import annotations

from typing import Any

import pytest

from support.toy import ToyBackend
from unit.endpoints.conftest import alphabet, read_events
from unit.endpoints.test_infill import MID, PRE, SUF, Coder, WithBos

PATH = "/v1/completions"
HOT = {"temperature": 8, "samplers": ["temperature"], "max_tokens": 6, "return_tokens": True}


async def answers(client: Any, **fields: Any) -> Any:
    response = await client.post(PATH, json=fields)
    assert response.status_code == 200, response.text
    return response.json()


async def test_the_best_are_those_with_the_highest_log_probability_per_token(opened: Any) -> None:
    async with opened() as client:
        alone = [(await answers(client, prompt="a", seed=seed, logprobs=0, **HOT))["choices"][0] for seed in range(6)]
        values = [choice["logprobs"]["token_logprobs"] for choice in alone]
        means = [sum(each) / len(each) for each in values]
        order = sorted(range(6), key=lambda i: -means[i])
        assert order[:2] != [0, 1], "the seeds prove nothing"
        found = await answers(client, prompt="a", seed=0, n=2, best_of=6, **HOT)
        assert [choice["tokens"] for choice in found["choices"]] == [alone[i]["tokens"] for i in order[:2]]
        assert [choice["index"] for choice in found["choices"]] == [0, 1]
        assert found["choices"][0]["logprobs"] is None  # nobody asked for them
        assert found["usage"]["completion_tokens"] == sum(map(len, values))
        assert found["usage"]["prompt_tokens"] == 1


async def test_the_best_of_each_of_several_prompts(opened: Any) -> None:
    async with opened() as client:
        found = await answers(client, prompt=["a", "p"], seed=3, best_of=4, logprobs=1, echo=True, **HOT)
        alone = [(await answers(client, prompt=text, seed=3, best_of=4, logprobs=1, echo=True, **HOT)) for text in "ap"]
        assert [choice["text"] for choice in found["choices"]] == [one["choices"][0]["text"] for one in alone]
        assert [len(choice["logprobs"]["tokens"]) for choice in found["choices"]] == [
            1 + len(choice["tokens"])
            for choice in found["choices"]  # the prompt's, which is echoed, too
        ]


@pytest.mark.parametrize(
    ("prompt", "settings", "tokens"),
    [
        ("a", {}, [PRE, 97, SUF, 98, 99, MID]),
        ([97, "k"], {}, [PRE, 97, 107, SUF, 98, 99, MID]),
        ("a", {"spm_infill": True}, [SUF, 98, 99, PRE, 97, MID]),
        ("", {}, [PRE, SUF, 98, 99, MID]),
    ],
)
async def test_a_suffix_makes_it_fill_the_middle(
    opened: Any, prompt: Any, settings: dict[str, Any], tokens: list[int]
) -> None:
    backend = ToyBackend(alphabet)
    async with opened(tokenizer=Coder(), backend=backend, **settings) as client:
        found = await answers(client, prompt=prompt, suffix="bc", max_tokens=1, echo=True)
        assert backend.slots[0][: len(tokens)] == tokens
        assert found["usage"]["prompt_tokens"] == len(tokens)
        assert found["choices"][0]["text"].startswith(prompt if isinstance(prompt, str) else "ak")


async def test_a_suffix_of_several_prompts_with_bos(opened: Any) -> None:
    async with opened(tokenizer=WithBos()) as client:
        fields = {"prompt": ["a", "bcd"], "suffix": "x", "max_tokens": 1, "stream": True}
        response = await client.post(PATH, json=fields | {"stream_options": {"include_usage": True}})
        assert read_events(response.text)[-2]["usage"]["prompt_tokens"] == 6 + 8


async def test_what_does_not_fit_around_a_middle_is_refused_not_cut(opened: Any) -> None:
    async with opened(tokenizer=Coder(), context_shift=True) as client:
        response = await client.post(PATH, json={"prompt": "x" * 99, "suffix": "y"})
        assert response.json()["error"]["type"] == "exceed_context_size_error"


async def test_a_model_without_tokens_for_it(opened: Any) -> None:
    async with opened() as client:
        error = (await client.post(PATH, json={"prompt": "a", "suffix": "b"})).json()["error"]
        assert (error["code"], error["param"]) == (501, "suffix")
        assert "prefix token is missing" in error["message"]
