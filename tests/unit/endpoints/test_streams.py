"""GET and DELETE /v1/stream, POST /v1/streams/lookup: read a stream again."""

from __future__ import annotations

from typing import Any

import pytest

from unit.endpoints.conftest import Open

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "stream": True, "temperature": 0}
ID = {"X-Conversation-Id": "org/model::1"}


@pytest.mark.inventory("T-10")
@pytest.mark.parametrize(
    ("path", "body"), [(CHAT, BODY), ("/completion", {"prompt": "a", "n_predict": 3, "stream": True, "temperature": 0})]
)
async def test_a_stream_can_be_read_again(opened: Open, path: str, body: dict[str, Any]) -> None:
    async with opened() as client:
        stream = (await client.post(path, json=body, headers=ID)).content
        params: dict[str, Any] = {"conv_id": "org/model::1"}
        again = await client.get("/v1/stream", params=params)
        assert again.content == stream
        assert again.headers["content-type"].startswith("text/event-stream")

        start = stream.index(b"\n\n") + 2
        assert (await client.get("/v1/stream", params={**params, "from": start})).content == stream[start:]
        assert (await client.get("/v1/stream", params={**params, "from": len(stream)})).content == b""
        beyond = await client.get("/v1/stream", params={**params, "from": len(stream) + 1})
        assert (beyond.status_code, beyond.json()["error"]["param"]) == (400, "from")

        ids = {"conversation_ids": ["org/model::1", "other", "org/model::1"]}
        (found,) = (await client.post("/v1/streams/lookup", json=ids)).json()
        assert (found["conversation_id"], found["is_done"], found["total_bytes"]) == ("org/model::1", True, len(stream))
        assert found["completed_at"] >= found["started_at"] > 0

        for _ in range(2):
            assert (await client.delete("/v1/stream", params=params)).status_code == 204
        gone = await client.get("/v1/stream", params=params)
        assert (gone.status_code, gone.json()["error"]["param"]) == (404, "conv_id")
        assert (await client.post("/v1/streams/lookup", json=ids)).json() == []


@pytest.mark.parametrize("body", [{**BODY, "stream": False}, {**BODY, "messages": []}])
async def test_other_responses_are_not_kept(opened: Open, body: dict[str, Any]) -> None:
    async with opened() as client:
        with_id = await client.post(CHAT, json=body, headers=ID)
        assert with_id.status_code == (await client.post(CHAT, json=body)).status_code
        assert (await client.get("/v1/stream", params={"conv_id": "org/model::1"})).status_code == 404


async def test_a_stream_belongs_to_its_key(opened: Open) -> None:
    async with opened(api_key=("ann", "bob")) as client:
        assert (await client.post(CHAT, json=BODY, headers={**ID, "X-Api-Key": "ann"})).status_code == 200
        for key, status in (("ann", 200), ("bob", 404), ("eve", 401)):
            response = await client.get("/v1/stream", params={"conv_id": "org/model::1"}, headers={"X-Api-Key": key})
            assert response.status_code == status


async def test_the_id_is_required(opened: Open) -> None:
    async with opened() as client:
        for query in ("", "?conv_id=", f"?conv_id={'c' * 257}", "?conv_id=c&from=-1", "?conv_id=c&from=x"):
            assert (await client.get(f"/v1/stream{query}")).status_code == 400
