"""Drafts in the API: fields of requests, counts in responses, /slots and /metrics."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.toy_drafters import KnowingDrafter
from unit.endpoints.conftest import LETTERS, Open, read_events

ALPHABET = LETTERS.encode()


def drafter(**options: Any) -> KnowingDrafter:
    return KnowingDrafter([ALPHABET], **options)


async def complete(client: Any, **fields: Any) -> Any:
    body = {"prompt": "abc", "n_predict": 12, "temperature": 0, **fields}
    response = await client.post("/completion", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_timings_say_how_many_tokens_were_accepted(opened: Open) -> None:
    async with opened(drafters={"known": drafter(n_max=4, wrong_every=10)}) as client:
        result = await complete(client)
    assert result["content"] == "defghijklmno"
    # e f g h are right, i comes with them; of j k l m, k at position 10 is wrong; l m n are right, o comes with them
    assert (result["timings"]["draft_n"], result["timings"]["draft_n_accepted"]) == (11, 8)


async def test_timings_have_no_drafts_without_drafters(opened: Open) -> None:
    async with opened() as client:
        assert not {"draft_n", "draft_n_accepted"} & set((await complete(client))["timings"])


async def test_stream_has_each_token_in_an_event(opened: Open) -> None:
    async with opened(drafters={"known": drafter()}) as client:
        body = {"prompt": "abc", "n_predict": 6, "temperature": 0, "stream": True}
        events = read_events((await client.post("/completion", json=body)).text)
    assert [event["content"] for event in events if event["content"]] == list("defghi")
    assert events[-1]["timings"]["draft_n_accepted"] == 4


@pytest.mark.parametrize("path", ["/completion", "/v1/completions", "/v1/chat/completions"])
async def test_fields_limit_drafts(opened: Open, path: str) -> None:
    known = drafter()
    chat = {"messages": [{"role": "user", "content": "abc"}]}
    body = {**(chat if "chat" in path else {"prompt": "abc"}), "max_tokens": 12, "temperature": 0}
    async with opened(drafters={"known": known}) as client:
        for n_max in (0, 2, 2.0):
            response = await client.post(path, json={**body, "speculative.n_max": n_max, "speculative.p_min": 0.5})
            assert response.status_code == 200
            assert "speculative" not in response.headers.get("x-llamafw-ignored-fields", "")
        response = await client.post(path, json={**body, "speculative.n_min": 9})
    limited = [n_max for _, n_max, p_min in known.requests if p_min == 0.5]
    assert limited
    assert set(limited) <= {1, 2}


async def test_too_short_drafts_are_not_used(opened: Open) -> None:
    async with opened(drafters={"known": drafter(n_max=4)}) as client:
        assert "draft_n" not in (await complete(client, **{"speculative.n_min": 5}))["timings"]
        assert "draft_n" in (await complete(client, **{"speculative.n_min": 4}))["timings"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("speculative.n_max", -1),
        ("speculative.n_max", "4"),
        ("speculative.n_min", 1.5),
        ("speculative.p_min", 1.5),
        ("speculative.p_min", True),
    ],
)
async def test_invalid_fields_are_400(opened: Open, field: str, value: Any) -> None:
    async with opened() as client:
        response = await client.post("/completion", json={"prompt": "abc", field: value})
    assert response.status_code == 400
    assert field in response.json()["error"]["message"]


async def test_slots_say_whether_there_are_drafters(opened: Open) -> None:
    async with opened(drafters={"known": drafter()}) as client:
        assert [slot["speculative"] for slot in (await client.get("/slots")).json()] == [True, True]
    async with opened() as client:
        assert [slot["speculative"] for slot in (await client.get("/slots")).json()] == [False, False]


async def test_metrics_count_drafts(opened: Open) -> None:
    async with opened(drafters={"known": drafter(n_max=4, wrong_every=10)}, metrics=True) as client:
        await complete(client)
        text = (await client.get("/metrics")).text
    families = {family.name.removeprefix("llamacpp:"): family for family in text_string_to_metric_families(text)}

    def values(name: str) -> list[float]:
        return [sample.value for sample in families[f"spec_decode_num_{name}"].samples]

    assert (values("drafts"), values("draft_tokens"), values("accepted_tokens")) == ([3], [11], [8])
    by_position = {
        sample.labels["position"]: sample.value
        for sample in families["spec_decode_num_accepted_tokens_per_pos"].samples
    }
    assert by_position == {"0": 3, "1": 2, "2": 2, "3": 1}
