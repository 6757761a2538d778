"""POST /infill on a toy model with tokens for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from support.toy import BOS, ToyTokenizer
from unit.endpoints.conftest import read_events

PRE, SUF, MID, REP, SEP = range(259, 264)


class Coder(ToyTokenizer):
    """Its pieces of several bytes are the tokens for filling in; texts are bytes."""

    fim: Mapping[str, int] = {"pre": PRE, "suf": SUF, "mid": MID, "rep": REP, "sep": SEP}  # as above


class WithBos(Coder):
    add_bos = True


async def prompt(opened: Any, tokenizer: Any = None, body: Any = None, **settings: Any) -> list[int]:
    async with opened(tokenizer=tokenizer or Coder(), n_ctx=256, **settings) as client:
        response = await client.post("/infill", json={"n_predict": 1, **body})
        assert response.status_code == 200, response.text
        return list(response.json()["prompt"])


AB: dict[str, Any] = {"input_prefix": "a", "input_suffix": "b"}


@pytest.mark.inventory("E-130", "E-131", "E-132", "C-098", "D-13", "F-14", "Q-10")
@pytest.mark.parametrize(
    ("body", "settings", "expected"),
    [
        (AB, {}, [PRE, 97, SUF, 98, MID]),
        (AB, {"spm_infill": True}, [SUF, 98, PRE, 97, MID]),
        ({}, {}, [PRE, SUF, MID]),
        ({"input_prefix": [97, "b"], "input_suffix": None}, {}, [PRE, 97, 98, SUF, MID]),
        ({**AB, "prompt": "c"}, {}, [PRE, 97, SUF, 98, MID, 99]),
        (
            {**AB, "input_extra": [{"filename": "f", "text": "x"}, {"text": ""}]},
            {},
            [REP, *b"repository\n", SEP, *b"f\nx", SEP, *b"file\n", PRE, 97, SUF, 98, MID],
        ),
    ],
)
async def test_the_order_of_parts(opened: Any, body: Any, settings: Any, expected: list[int]) -> None:
    assert await prompt(opened, body=body, **settings) == expected


async def test_bos_comes_first(opened: Any) -> None:
    assert await prompt(opened, WithBos(), AB) == [BOS, PRE, 97, SUF, 98, MID]


@pytest.mark.inventory("E-133", "R-17")
async def test_a_model_that_cannot(opened: Any) -> None:
    class Half(ToyTokenizer):
        fim: Mapping[str, int] = {"pre": PRE}  # as above

    async with opened(tokenizer=Half()) as client:
        error = (await client.post("/infill", json=AB)).json()["error"]
    assert (error["code"], error["type"]) == (501, "not_supported_error")
    assert error["message"].endswith("by this model: suffix token is missing. middle token is missing.")


@pytest.mark.inventory("E-130", "R-17")
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input_prefix": 5}, "input_prefix"),
        ({"input_suffix": [9999]}, "input_suffix.0"),
        ({"input_prefix": {}}, "input_prefix"),
        ({"input_extra": [{}]}, "input_extra.0.text"),
        ({**AB, "n_predict": "x"}, "n_predict"),
    ],
)
async def test_what_is_refused(opened: Any, body: Any, param: str) -> None:
    async with opened(tokenizer=Coder()) as client:
        error = (await client.post("/infill", json=body)).json()["error"]
        assert (error["code"], error["param"]) == (400, param), error


async def test_what_does_not_fit_is_refused_not_cut(opened: Any) -> None:
    async with opened(tokenizer=Coder(), context_shift=True) as client:
        error = (await client.post("/infill", json={"input_prefix": "x" * 99})).json()["error"]
        assert (error["code"], error["type"]) == (400, "exceed_context_size_error")


@pytest.mark.inventory("E-134")
async def test_it_answers_like_a_completion(opened: Any) -> None:
    async with opened(tokenizer=Coder()) as client:
        body = {**AB, "prompt": "ab", "n_predict": 3, "temperature": 0}
        found = (await client.post("/infill", json=body)).json()
        assert (found["content"], found["stop_type"], found["tokens_evaluated"]) == ("cde", "limit", 7)
        events = read_events((await client.post("/infill", json={**body, "stream": True})).text)
        assert "".join(event["content"] for event in events) == "cde"
