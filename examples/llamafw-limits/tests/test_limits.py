"""Tests of each limit, through endpoints of both APIs."""

from typing import Any

from llamafw.testing.conformance import PluginConformance

BODY = {"prompt": "Hello", "ignore_eos": True, "seed": 1}


async def test_limits_apply_to_every_endpoint(serve: Any) -> None:
    async with serve(extra={"most_tokens": 4, "most_prompt_tokens": 20, "most_seconds": None}) as client:
        for n_predict, expected in ((None, 4), (-1, 4), (100, 4), (3, 3)):
            body = BODY if n_predict is None else {**BODY, "n_predict": n_predict}
            assert (await client.post("/completion", json=body)).json()["tokens_predicted"] == expected

        answer = (await client.post("/v1/completions", json={**BODY, "max_tokens": 50})).json()
        assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (4, "length")
        refused = await client.post("/completion", json={**BODY, "prompt": "long " * 20})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt")


async def test_answer_ends_after_most_seconds(serve: Any) -> None:
    async with serve(extra={"most_seconds": 0.05}, context_shift=True) as client:
        answer = (await client.post("/completion", json={**BODY, "n_predict": -1})).json()  # never ends by itself
        assert answer["stop_type"] == "limit"
        assert answer["tokens_predicted"] > 0


async def test_without_flags_nothing_changes(serve: Any) -> None:
    async with serve() as client:
        assert (await client.post("/completion", json={**BODY, "n_predict": 40})).json()["tokens_predicted"] == 40


class TestPlugin(PluginConformance):
    name = "llamafw-limits"
