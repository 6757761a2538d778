"""Tests of all operations in a server that checks every response against the API document."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx

from llamafw.testing.conformance import EndpointConformance, PluginConformance

TURN = {"content": "Name three colours.", "max_tokens": 6, "seed": 1, "ignore_eos": True}


async def test_conversation_survives_restart_and_is_deleted(serve: Any, tmp_path: Path) -> None:
    extra = {"conversations": str(tmp_path / "talks.db")}
    async with serve(extra=extra) as client:
        body = {"title": "T", "messages": [{"role": "system", "content": "S"}]}
        created = (await client.post("/v1/conversations", json=body)).json()
        url = f"/v1/conversations/{created['id']}"

        added = await client.post(f"{url}/messages", json={"role": "user", "content": "Hello"})
        assert [message["role"] for message in added.json()["messages"]] == ["system", "user"]

        response = await client.post(f"{url}/completions", json=TURN)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert answer["usage"]["completion_tokens"] == 6

        stream = (await client.post(f"{url}/completions", json={**TURN, "stream": True})).text
        events = [json.loads(event[6:]) for event in stream.split("\n\n") if event]
        assert "".join(event["delta"] for event in events[:-1]) == events[-1]["message"]["content"]

    async with serve(extra=extra) as client:  # a second server reads the same file
        stored = (await client.get(url)).json()
        roles = ["system", "user", "user", "assistant", "user", "assistant"]
        assert [message["role"] for message in stored["messages"]] == roles
        assert stored["messages"][3] == answer["message"]

        chat = {**TURN, "messages": stored["messages"][:3]}
        plain = (await client.post("/v1/chat/completions", json=chat)).json()
        assert plain["choices"][0]["message"]["content"] == answer["message"]["content"]

        assert (await client.delete(url)).json() == {"id": created["id"], "deleted": True}
        for method, path in (
            ("GET", url),
            ("DELETE", url),
            ("POST", f"{url}/completions"),
            ("POST", f"{url}/messages"),
        ):
            gone = await client.request(method, path, json={**TURN, "role": "user"} if method == "POST" else None)
            assert (gone.status_code, gone.json()["error"]["param"]) == (404, "id")


async def test_turns_of_a_conversation_run_one_after_another(serve: Any) -> None:
    async with serve() as client:
        ids = [(await client.post("/v1/conversations", json={})).json()["id"] for _ in range(3)]
        turns = [client.post(f"/v1/conversations/{id}/completions", json=TURN) for id in [*ids, ids[0], ids[0]]]
        assert {response.status_code for response in await asyncio.gather(*turns)} == {200}
        stored = (await client.get(f"/v1/conversations/{ids[0]}")).json()
        assert [message["role"] for message in stored["messages"]] == ["user", "assistant"] * 3

        page = (await client.get("/v1/conversations?limit=2")).json()["data"]
        assert [conversation["id"] for conversation in page] == ids[:0:-1]
        rest = (await client.get(f"/v1/conversations?before={page[-1]['id']}")).json()["data"]
        assert [conversation["id"] for conversation in rest] == ids[:1]


async def test_failed_turn_is_not_stored(serve: Any) -> None:
    async with serve(context_shift=False) as client:
        url = f"/v1/conversations/{(await client.post('/v1/conversations', json={})).json()['id']}"
        for wrong, param in (({"top_p": 5}, "top_p"), ({"content": 1}, "content")):
            response = await client.post(f"{url}/completions", json={**TURN, **wrong})
            assert (response.status_code, response.json()["error"]["param"]) == (400, param)
        assert (await client.post(f"{url}/completions", json={**TURN, "content": "x" * 9999})).status_code == 400
        assert (await client.get(url)).json()["messages"] == []


async def test_disconnected_client_stores_nothing(serve_http: Any) -> None:
    async with serve_http() as address, httpx.AsyncClient(base_url=address, timeout=60) as client:
        url = f"/v1/conversations/{(await client.post('/v1/conversations', json={})).json()['id']}"
        body = {**TURN, "max_tokens": -1, "stream": True}  # never ends by itself
        async with client.stream("POST", f"{url}/completions", json=body) as response:
            await anext(response.aiter_lines())

        answer = (await client.post(f"{url}/completions", json=TURN)).json()  # waits for the first turn
        assert answer["usage"]["completion_tokens"] == 6
        messages = (await client.get(url)).json()["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"]


class TestConversations(EndpointConformance):
    name = "llamafw-conversations"


class TestPlugin(PluginConformance):
    name = "llamafw-conversations"
