"""The operations through a server that holds every response against the document."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx

from llamafw.testing.conformance import EndpointConformance, PluginConformance

TURN = {"content": "Name three colours.", "max_tokens": 6, "seed": 1, "ignore_eos": True}


async def test_a_conversation_from_beginning_to_end(serve: Any, tmp_path: Path) -> None:
    extra = {"conversations": str(tmp_path / "talks.db")}
    async with serve(extra=extra) as client:
        begun = (
            await client.post(
                "/v1/conversations", json={"title": "T", "messages": [{"role": "system", "content": "S"}]}
            )
        ).json()
        here = f"/v1/conversations/{begun['id']}"
        added = await client.post(f"{here}/messages", json={"role": "user", "content": "Hello"})
        assert [message["role"] for message in added.json()["messages"]] == ["system", "user"]
        response = await client.post(f"{here}/completions", json=TURN)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert answer["usage"]["completion_tokens"] == 6
        stream = (await client.post(f"{here}/completions", json={**TURN, "stream": True})).text
        events = [json.loads(event[6:]) for event in stream.split("\n\n") if event]
        assert "".join(event["delta"] for event in events[:-1]) == events[-1]["message"]["content"]
    async with serve(extra=extra) as client:  # it is still there
        found = (await client.get(here)).json()
        roles = ["system", "user", "user", "assistant", "user", "assistant"]
        assert [message["role"] for message in found["messages"]] == roles
        assert found["messages"][3] == answer["message"]
        chat = {**TURN, "messages": found["messages"][:3]}
        plain = (await client.post("/v1/chat/completions", json=chat)).json()
        assert plain["choices"][0]["message"]["content"] == answer["message"]["content"]
        assert (await client.delete(here)).json() == {"id": begun["id"], "deleted": True}
        for method, path in (
            ("GET", here),
            ("DELETE", here),
            ("POST", f"{here}/completions"),
            ("POST", f"{here}/messages"),
        ):
            gone = await client.request(method, path, json={**TURN, "role": "user"} if method == "POST" else None)
            assert (gone.status_code, gone.json()["error"]["param"]) == (404, "id")


async def test_turns_of_one_conversation_follow_one_another(serve: Any) -> None:
    async with serve() as client:
        ids = [(await client.post("/v1/conversations", json={})).json()["id"] for _ in range(3)]
        turns = [client.post(f"/v1/conversations/{id}/completions", json=TURN) for id in [*ids, ids[0], ids[0]]]
        assert {response.status_code for response in await asyncio.gather(*turns)} == {200}
        found = (await client.get(f"/v1/conversations/{ids[0]}")).json()
        assert [message["role"] for message in found["messages"]] == ["user", "assistant"] * 3
        page = (await client.get("/v1/conversations?limit=2")).json()["data"]
        assert [one["id"] for one in page] == ids[:0:-1]
        rest = (await client.get(f"/v1/conversations?before={page[-1]['id']}")).json()["data"]
        assert [one["id"] for one in rest] == ids[:1]


async def test_a_turn_that_fails_has_not_happened(serve: Any) -> None:
    async with serve(context_shift=False) as client:
        here = f"/v1/conversations/{(await client.post('/v1/conversations', json={})).json()['id']}"
        for wrong, param in (({"top_p": 5}, "top_p"), ({"content": 1}, "content")):
            response = await client.post(f"{here}/completions", json={**TURN, **wrong})
            assert (response.status_code, response.json()["error"]["param"]) == (400, param)
        assert (await client.post(f"{here}/completions", json={**TURN, "content": "x" * 9999})).status_code == 400
        assert (await client.get(here)).json()["messages"] == []


async def test_a_client_that_goes_leaves_nothing_behind(serve_http: Any) -> None:
    async with serve_http() as url, httpx.AsyncClient(base_url=url) as client:
        here = f"/v1/conversations/{(await client.post('/v1/conversations', json={})).json()['id']}"
        body = {**TURN, "max_tokens": -1, "stream": True}  # without end
        async with client.stream("POST", f"{here}/completions", json=body) as response:
            await anext(response.aiter_lines())
        after = (await client.post(f"{here}/completions", json=TURN)).json()  # waits for the turn before
        assert after["usage"]["completion_tokens"] == 6
        found = (await client.get(here)).json()["messages"]
        assert [message["role"] for message in found] == ["user", "assistant"]


class TestConversations(EndpointConformance):
    name = "llamafw-conversations"


class TestPlugin(PluginConformance):
    name = "llamafw-conversations"
