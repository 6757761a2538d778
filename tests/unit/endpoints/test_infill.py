"""POST /infill, on a toy model with infill tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from support.toy_model import BOS, ToyTokenizer
from unit.endpoints.conftest import (
    MID,
    PRE,
    REP,
    SEP,
    SUF,
    InfillTokenizer,
    InfillTokenizerWithBos,
    Open,
    read_events,
)

pytestmark = pytest.mark.slow


async def infill_prompt(opened: Open, body: Any, tokenizer: Any = None, **settings: Any) -> list[int]:
    async with opened(tokenizer=tokenizer or InfillTokenizer(), n_ctx=256, **settings) as client:
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
async def test_parts_of_the_prompt_are_in_order(opened: Open, body: Any, settings: Any, expected: list[int]) -> None:
    assert await infill_prompt(opened, body, **settings) == expected


async def test_bos_is_first(opened: Open) -> None:
    assert await infill_prompt(opened, AB, InfillTokenizerWithBos()) == [BOS, PRE, 97, SUF, 98, MID]


@pytest.mark.inventory("E-133", "R-17")
async def test_missing_infill_tokens_are_named(opened: Open) -> None:
    class PrefixOnly(ToyTokenizer):
        fim: Mapping[str, int] = {"pre": PRE}  # read-only, as in the protocol

    async with opened(tokenizer=PrefixOnly()) as client:
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
async def test_invalid_requests_are_400(opened: Open, body: Any, param: str) -> None:
    async with opened(tokenizer=InfillTokenizer()) as client:
        error = (await client.post("/infill", json=body)).json()["error"]
    assert (error["code"], error["param"]) == (400, param), error


@pytest.mark.inventory("E-134")
async def test_response_is_a_completion(opened: Open) -> None:
    async with opened(tokenizer=InfillTokenizer()) as client:
        body = {**AB, "prompt": "ab", "n_predict": 3, "temperature": 0}
        row = (await client.post("/infill", json=body)).json()
        assert (row["content"], row["stop_type"], row["tokens_evaluated"]) == ("cde", "limit", 7)
        events = read_events((await client.post("/infill", json={**body, "stream": True})).text)
        assert "".join(event["content"] for event in events) == "cde"
