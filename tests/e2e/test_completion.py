"""POST /completion with the default model: text, streams, determinism, stop strings, disconnects."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from llamafw.testing.process import ServerProcess

PARIS = {"prompt": "The capital of France is", "n_predict": 8, "temperature": 0}


def complete(http: httpx.Client, **body: Any) -> dict[str, Any]:
    response = http.post("/completion", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def stream(http: httpx.Client, **body: Any) -> list[dict[str, Any]]:
    with http.stream("POST", "/completion", json={**body, "stream": True}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]


def all_slots_answer(http: httpx.Client) -> bool:
    """Return whether all eight slots answer."""
    answer = http.post("/completion", json={"prompt": ["a"] * 8, "n_predict": 1})
    return answer.status_code == 200


@pytest.mark.every_backend
def test_completion_knows_a_fact(http: httpx.Client) -> None:
    answer = complete(http, **PARIS)
    assert "Paris" in answer["content"]
    assert answer["tokens_predicted"] == 8
    assert answer["stop_type"] == "limit"
    assert answer["timings"]["predicted_n"] == 8


@pytest.mark.every_backend
@pytest.mark.inventory("E-072")
def test_stream_has_the_text_of_the_plain_response(http: httpx.Client) -> None:
    events = stream(http, **PARIS)
    assert "".join(event["content"] for event in events) == complete(http, **PARIS)["content"]
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1]["tokens_predicted"] == 8


@pytest.mark.exact
@pytest.mark.inventory("B-04", "B-05", "K-09")
async def test_eight_parallel_requests_have_the_same_text_as_alone(server: ServerProcess) -> None:
    bodies = [
        {"prompt": f"Once upon a time there were {n} bears who", "n_predict": 24 + n, "seed": n, "temperature": 1.0}
        for n in range(8)
    ]
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
        alone = [(await http.post("/completion", json=body)).json()["content"] for body in bodies]
        together = await asyncio.gather(*(http.post("/completion", json=body) for body in bodies))
        uncached = [http.post("/completion", json={**body, "cache_prompt": False}) for body in bodies]
        afresh = await asyncio.gather(*uncached)
    assert [answer.json()["content"] for answer in together] == alone
    assert [answer.json()["content"] for answer in afresh] == alone
    assert len(set(alone)) == 8


@pytest.mark.every_backend
@pytest.mark.inventory("K-03", "E-05A", "D-16", "V-01")
def test_prompt_prefix_is_reused(http: httpx.Client) -> None:
    prompt = "A rather long prompt about whales, ships and the sea, asked twice."
    first = complete(http, prompt=prompt, n_predict=4, id_slot=3, temperature=0)
    again = complete(http, prompt=prompt, n_predict=4, id_slot=3, temperature=0)
    assert again["content"] == first["content"]
    assert again["timings"]["prompt_n"] == 1
    assert again["tokens_cached"] == first["tokens_evaluated"] - 1


@pytest.mark.every_backend
def test_stop_string_ends_the_text(http: httpx.Client) -> None:
    body = {"prompt": "1, 2, 3, 4, 5,", "temperature": 0, "n_predict": 60}
    whole = complete(http, **body)["content"]
    assert ", 9" in whole
    answer = complete(http, **body, stop=[", 9"])
    events = stream(http, **body, stop=[", 9"])
    assert answer["content"] == whole.split(", 9")[0] == "".join(event["content"] for event in events)
    assert answer["stopping_word"] == ", 9"
    assert answer["stop_type"] == "word"


def test_n_predict_0_evaluates_the_prompt_only(http: httpx.Client) -> None:
    answer = complete(http, prompt="Just read this.", n_predict=0)
    assert (answer["content"], answer["tokens_predicted"]) == ("", 0)
    assert answer["tokens_evaluated"] > 0


@pytest.mark.inventory("F-02", "D-02")
def test_n_predict_minus_2_fills_the_context(http: httpx.Client) -> None:
    answer = complete(http, prompt="Numbers:", n_predict=-2, ignore_eos=True, temperature=0)
    assert answer["tokens_evaluated"] + answer["tokens_predicted"] in (1024, 1025)  # the last token need not be cached
    assert answer["truncated"] is True


@pytest.mark.every_backend
def test_n_probs_reports_each_token(http: httpx.Client) -> None:
    answer = complete(http, **PARIS, n_probs=3)
    assert len(answer["completion_probabilities"]) == 8


@pytest.mark.every_backend
@pytest.mark.inventory("E-075", "F-20", "V-10")
@pytest.mark.parametrize("streamed", [True, False])
async def test_disconnect_frees_the_slot(server: ServerProcess, streamed: bool) -> None:
    body = {"prompt": "Tell me everything.", "n_predict": -2, "ignore_eos": True, "stream": streamed, "id_slot": 2}
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
        request = asyncio.create_task(http.post("/completion", json=body))
        await _wait_for_slot(http, 2, is_processing=True)
        request.cancel()
        slot = await _wait_for_slot(http, 2, is_processing=False)
    # if the request were not cancelled, it would generate about a thousand tokens, until the context is full
    assert slot["params"]["ignore_eos"] is True
    assert slot["next_token"][0]["n_decoded"] < 900


async def _wait_for_slot(http: httpx.AsyncClient, id: int, *, is_processing: bool) -> dict[str, Any]:
    """Wait until a slot has a request or has none; return its state."""
    async with asyncio.timeout(60):
        while True:
            slot: dict[str, Any] = (await http.get("/slots")).json()[id]
            if slot["is_processing"] is is_processing:
                return slot


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "a", "n_predict": "5"}, "n_predict"),
        ({"prompt": "a", "stop": [1]}, "stop.0"),
        ({"prompt": "a", "id_slot": 9}, "id_slot"),
        ({"prompt": "a", "id_slot": -2}, "id_slot"),
        ({"prompt": "a", "n_probs": -1}, "n_probs"),
        ({"prompt": "a", "samplers": ["top_q"]}, "samplers.0"),
        ({"prompt": [1, 99999999]}, "prompt.1"),
    ],
)
def test_invalid_fields_are_400_and_named(http: httpx.Client, body: dict[str, Any], param: str) -> None:
    response = http.post("/completion", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, 400), error
    assert error["param"].startswith(param), error


def test_invalid_utf8_and_json_are_400(http: httpx.Client) -> None:
    for content in (b'{"prompt":"\xff\xfe"}', b"{", b"[" * 100000, b'{"prompt": NaN}'):
        assert http.post("/completion", content=content).status_code == 400
    assert all_slots_answer(http)
