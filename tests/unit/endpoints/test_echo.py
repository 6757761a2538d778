"""`echo` with `logprobs` on /v1/completions: a text is scored, with or without an answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from support.toy import BOS, EOS, HEART, N_VOCAB, WithBos
from unit.endpoints.conftest import alphabet, read_events
from unit.endpoints.test_infill import Coder

PATH = "/v1/completions"
GREEDY = {"temperature": 0}


def logprob(prefix: list[int], token: int) -> float:
    row = alphabet(prefix).astype(np.float64)
    assert len(row) == N_VOCAB
    return float(row[token] - np.log(np.exp(row).sum()))


async def scored(client: Any, prompt: Any, **fields: Any) -> Any:
    body = {"prompt": prompt, "echo": True, "logprobs": 1, "max_tokens": 0, **GREEDY, **fields}
    response = await client.post(PATH, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_a_text_is_scored(opened: Any) -> None:
    async with opened() as client:
        found = await scored(client, "abxy")
        choice, tokens = found["choices"][0], [*b"abxy"]
        assert (choice["text"], choice["finish_reason"]) == ("abxy", "length")
        logprobs = choice["logprobs"]
        assert (logprobs["tokens"], logprobs["text_offset"]) == ([*"abxy"], [0, 1, 2, 3])
        assert (logprobs["token_logprobs"][0], logprobs["top_logprobs"][0]) == (None, None)
        wanted = [logprob(tokens[:i], tokens[i]) for i in range(1, 4)]
        assert logprobs["token_logprobs"][1:] == pytest.approx(wanted, abs=1e-5)
        assert [list(top) for top in logprobs["top_logprobs"][1:]] == [["b"], ["c"], ["y"]]
        assert found["usage"]["completion_tokens"] == 0


async def test_with_an_answer_whole_and_in_a_stream(opened: Any) -> None:
    async with opened() as client:
        whole = (await scored(client, ["ab", "k"], max_tokens=2, n=2))["choices"]
        assert [choice["text"] for choice in whole] == ["abcd", "abcd", "klm", "klm"]
        assert whole[0]["logprobs"]["tokens"] == [*"abcd"]
        assert whole[0]["logprobs"]["text_offset"] == [0, 1, 2, 3]
        alone = (await scored(client, "ab", max_tokens=2, echo=False))["choices"][0]["logprobs"]
        assert whole[0]["logprobs"]["token_logprobs"][2:] == alone["token_logprobs"]
        body = {"prompt": ["ab", "k"], "echo": True, "logprobs": 1, "max_tokens": 2, "n": 2, "stream": True, **GREEDY}
        *chunks, done = read_events((await client.post(PATH, json=body)).text)
        for i, choice in enumerate(whole):
            mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == i]
            assert "".join(part["text"] for part in mine) == choice["text"]
            for name, values in choice["logprobs"].items():
                assert [value for part in mine for value in part["logprobs"][name]] == values


class NamedBos(WithBos):
    """Its BOS has a name, which is no text of the prompt's."""

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return {BOS: b"<s>", EOS: b"</s>"}[token] if special and token in (BOS, EOS) else super().piece(token)


async def test_offsets_count_the_clients_text(opened: Any) -> None:
    async with opened(tokenizer=NamedBos()) as client:
        logprobs = (await scored(client, "ab", max_tokens=1))["choices"][0]["logprobs"]
        assert (logprobs["tokens"], logprobs["text_offset"]) == (["<s>", "a", "b", "c"], [0, 0, 1, 2])
        found = (await scored(client, [97, HEART, EOS, 98], max_tokens=1))["choices"][0]
        assert found["text"].startswith("a❤</s>b") or found["text"].startswith("a❤b")
        assert found["logprobs"]["tokens"][:4] == ["a", "❤", "</s>", "b"]


async def test_the_system_prompt_is_nobodys_to_score(opened: Any) -> None:
    async with opened(tokenizer=NamedBos(), props=True) as client:
        before = (await scored(client, "ab"))["choices"][0]["logprobs"]
        await client.post("/props", json={"system_prompt": "xyz"})
        found = await scored(client, "ab", max_tokens=1)
        logprobs = found["choices"][0]["logprobs"]
        assert (logprobs["tokens"], logprobs["text_offset"]) == (["a", "b", "c"], [0, 1, 2])
        assert None not in logprobs["token_logprobs"]  # there is something before the first
        assert logprobs["token_logprobs"][1] == pytest.approx(before["token_logprobs"][2])
        assert found["choices"][0]["text"] == "abc"


async def test_the_cache_takes_nothing_away(opened: Any) -> None:
    async with opened() as client:
        first, again = [await scored(client, "abcabc") for _ in range(2)]
        assert first["choices"] == again["choices"]
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        assert (await scored(client, "abcabc", logprobs=None))["usage"]["prompt_tokens_details"]["cached_tokens"] == 5


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"prompt": "x" * 99}, "exceed_context_size_error", "prompt"),
        ({"prompt": "a", "suffix": "b"}, "invalid_request_error", "echo"),
    ],
)
async def test_what_cannot_be_scored(opened: Any, fields: dict[str, Any], kind: str, param: str) -> None:
    async with opened(tokenizer=Coder(), context_shift=True) as client:
        body = {"echo": True, "logprobs": 0, "max_tokens": 0, **fields}
        error = (await client.post(PATH, json=body)).json()["error"]
        assert (error["code"], error["type"], error["param"]) == (400, kind, param)
