"""`echo` with `logprobs` of POST /v1/completions: scores a text, with or without an answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.toy_model import BOS, EOS, HEART, N_VOCAB, ToyTokenizerWithBos
from unit.endpoints.conftest import InfillTokenizer, Open, alphabet, read_events

pytestmark = pytest.mark.slow

PATH = "/v1/completions"
GREEDY = {"temperature": 0}


def expected_logprob(prefix: list[int], token: int) -> float:
    row = alphabet(prefix).astype(np.float64)
    assert len(row) == N_VOCAB
    return float(row[token] - np.log(np.exp(row).sum()))


async def score(client: Any, prompt: Any, **fields: Any) -> Any:
    body = {"prompt": prompt, "echo": True, "logprobs": 1, "max_tokens": 0, **GREEDY, **fields}
    response = await client.post(PATH, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_prompt_is_scored_without_an_answer(opened: Open) -> None:
    async with opened() as client:
        response = await score(client, "abxy")
    choice, tokens = response["choices"][0], [*b"abxy"]
    assert (choice["text"], choice["finish_reason"]) == ("abxy", "length")
    assert response["usage"]["completion_tokens"] == 0

    logprobs = choice["logprobs"]
    assert (logprobs["tokens"], logprobs["text_offset"]) == ([*"abxy"], [0, 1, 2, 3])
    assert (logprobs["token_logprobs"][0], logprobs["top_logprobs"][0]) == (None, None)
    expected = [expected_logprob(tokens[:i], tokens[i]) for i in range(1, 4)]
    assert logprobs["token_logprobs"][1:] == pytest.approx(expected, abs=1e-5)
    assert [list(top) for top in logprobs["top_logprobs"][1:]] == [["b"], ["c"], ["y"]]


async def test_prompt_and_answer_are_scored_in_a_stream_too(opened: Open) -> None:
    async with opened() as client:
        whole = (await score(client, ["ab", "k"], max_tokens=2, n=2))["choices"]
        alone = (await score(client, "ab", max_tokens=2, echo=False))["choices"][0]["logprobs"]
        body = {"prompt": ["ab", "k"], "echo": True, "logprobs": 1, "max_tokens": 2, "n": 2, "stream": True, **GREEDY}
        *chunks, _ = read_events((await client.post(PATH, json=body)).text)

    assert [choice["text"] for choice in whole] == ["abcd", "abcd", "klm", "klm"]
    assert whole[0]["logprobs"]["tokens"] == [*"abcd"]
    assert whole[0]["logprobs"]["text_offset"] == [0, 1, 2, 3]
    assert whole[0]["logprobs"]["token_logprobs"][2:] == alone["token_logprobs"]

    for i, choice in enumerate(whole):
        pieces = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == i]
        assert "".join(piece["text"] for piece in pieces) == choice["text"]
        for name, values in choice["logprobs"].items():
            assert [value for piece in pieces for value in piece["logprobs"][name]] == values


class NamedBos(ToyTokenizerWithBos):
    """A toy tokenizer with names for BOS and EOS, which are not part of a prompt's text."""

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return {BOS: b"<s>", EOS: b"</s>"}[token] if special and token in (BOS, EOS) else super().piece(token)


async def test_text_offsets_do_not_count_bos(opened: Open) -> None:
    async with opened(tokenizer=NamedBos()) as client:
        logprobs = (await score(client, "ab", max_tokens=1))["choices"][0]["logprobs"]
    assert (logprobs["tokens"], logprobs["text_offset"]) == (["<s>", "a", "b", "c"], [0, 0, 1, 2])


async def test_prompt_of_token_ids_is_scored(opened: Open) -> None:
    async with opened(tokenizer=NamedBos()) as client:
        choice = (await score(client, [97, HEART, EOS, 98], max_tokens=1))["choices"][0]
    assert choice["text"].startswith(("a❤</s>b", "a❤b"))
    assert choice["logprobs"]["tokens"][:4] == ["a", "❤", "</s>", "b"]


async def test_system_prompt_is_not_scored(opened: Open) -> None:
    async with opened(tokenizer=NamedBos(), props=True) as client:
        without = (await score(client, "ab"))["choices"][0]["logprobs"]
        await client.post("/props", json={"system_prompt": "xyz"})
        choice = (await score(client, "ab", max_tokens=1))["choices"][0]

    logprobs = choice["logprobs"]
    assert choice["text"] == "abc"
    assert (logprobs["tokens"], logprobs["text_offset"]) == (["a", "b", "c"], [0, 1, 2])
    assert None not in logprobs["token_logprobs"]  # the system prompt precedes the first token
    assert logprobs["token_logprobs"][1] == pytest.approx(without["token_logprobs"][2])


async def test_scoring_does_not_use_the_cache(opened: Open) -> None:
    async with opened() as client:
        first, again = [await score(client, "abcabc") for _ in range(2)]
        assert first["choices"] == again["choices"]
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        unscored = await score(client, "abcabc", logprobs=None)
        assert unscored["usage"]["prompt_tokens_details"]["cached_tokens"] == 5


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"suffix": "b"}, "echo"), ({"truncate_prompt": True}, "truncate_prompt")],
)
async def test_scoring_excludes_other_fields(opened: Open, fields: dict[str, Any], param: str) -> None:
    async with opened(tokenizer=InfillTokenizer()) as client:
        body = {"prompt": "a", "echo": True, "logprobs": 0, "max_tokens": 0, **fields}
        error = (await client.post(PATH, json=body)).json()["error"]
    assert (error["code"], error["type"], error["param"]) == (400, "invalid_request_error", param)
