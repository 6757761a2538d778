"""Responses that run in the background, on a model whose forward passes the test allows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from support.responses import check_events, read_named_events
from support.toy_model import ToyBackend, alphabet_logits
from unit.endpoints.conftest import Open

PATH = "/v1/responses"
BODY = {"input": "Hi", "temperature": 0, "max_output_tokens": 4, "background": True}


@pytest.fixture
def backend() -> ToyBackend:
    return ToyBackend(alphabet_logits, n_slots=2, n_ctx=64, hold=True)


@pytest_asyncio.fixture
async def client(opened: Open, backend: ToyBackend) -> AsyncIterator[httpx.AsyncClient]:
    async with opened(backend=backend) as client:
        yield client
        backend.allow_forward(10_000)


async def get(client: httpx.AsyncClient, id: str) -> dict[str, Any]:
    response: dict[str, Any] = (await client.get(f"{PATH}/{id}")).json()
    return response


async def start(client: httpx.AsyncClient, backend: ToyBackend) -> str:
    """Start a response and wait until it has its first word; return its id."""
    id: str = (await client.post(PATH, json=BODY)).json()["id"]
    backend.allow_forward()
    await wait_for(client, id, "in_progress")
    return id


async def wait_for(client: httpx.AsyncClient, id: str, *statuses: str) -> dict[str, Any]:
    """Wait until a response has one of the states; return it."""
    async with asyncio.timeout(30):
        while (response := await get(client, id))["status"] not in statuses:  # noqa: ASYNC110  # the server tells nobody
            await asyncio.sleep(0)
    return response


async def test_response_runs_while_its_client_is_away(client: httpx.AsyncClient, backend: ToyBackend) -> None:
    created = (await client.post(PATH, json=BODY)).json()
    assert (created["status"], created["background"], created["output"]) == ("queued", True, [])
    backend.allow_forward()
    await wait_for(client, created["id"], "in_progress")
    http = await client.post(PATH, json={"input": "x", "previous_response_id": created["id"]})
    assert (http.status_code, http.json()["error"]["param"]) == (400, "previous_response_id")

    backend.allow_forward(10_000)
    response = await wait_for(client, created["id"], "completed", "incomplete")
    assert response["status"] == "incomplete"
    assert len(response["output"][0]["content"][0]["text"]) == 4
    assert response["id"] == created["id"]
    continued = await client.post(PATH, json={"input": "x", "previous_response_id": created["id"], "n_predict": 1})
    assert continued.status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_events_can_be_read_again_from_any_number(
    client: httpx.AsyncClient, backend: ToyBackend, stream: bool
) -> None:
    backend.allow_forward(10_000)
    http = await client.post(PATH, json={**BODY, "stream": stream})
    if stream:
        events = read_named_events(http.text)
        id = check_events(events)["id"]
    else:
        id = http.json()["id"]
        events = read_named_events((await client.get(f"{PATH}/{id}?stream=true")).text)
    assert [event["type"] for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert check_events(events) == await get(client, id)
    assert "prompt_progress" not in events[3]

    for after in (-1, 0, 5, len(events) - 2):
        url = f"{PATH}/{id}?stream=true&starting_after={after}&include_obfuscation=false"
        assert read_named_events((await client.get(url)).text) == events[after + 1 :]
    assert (await client.get(f"{PATH}/{id}?starting_after=1")).status_code == 400


async def test_followers_get_new_events(client: httpx.AsyncClient, backend: ToyBackend) -> None:
    id = await start(client, backend)
    followers = [asyncio.create_task(client.get(f"{PATH}/{id}?stream=true")) for _ in range(3)]
    backend.allow_forward(10_000)
    texts = {(await follower).text for follower in followers}
    assert len(texts) == 1
    check_events(read_named_events(texts.pop()))


async def test_foreground_responses_cannot_be_followed_or_cancelled(
    client: httpx.AsyncClient, backend: ToyBackend
) -> None:
    backend.allow_forward(10_000)
    id = (await client.post(PATH, json={**BODY, "background": False})).json()["id"]
    for method, path in (("GET", "?stream=true"), ("POST", "/cancel")):
        http = await client.request(method, f"{PATH}/{id}{path}")
        assert http.status_code == 400
        assert "background: true" in http.json()["error"]["message"]


async def test_cancel_ends_a_response(client: httpx.AsyncClient, backend: ToyBackend) -> None:
    id = await start(client, backend)
    follower = asyncio.create_task(client.get(f"{PATH}/{id}?stream=true"))
    cancelled = (await client.post(f"{PATH}/{id}/cancel")).json()
    assert cancelled["status"] == "cancelled"
    assert check_events(read_named_events((await follower).text)) == cancelled
    assert (await client.post(f"{PATH}/{id}/cancel")).json() == cancelled == await get(client, id)

    backend.allow_forward(10_000)
    body = {**BODY, "background": False}
    assert (await client.post(PATH, json=body)).status_code == 200  # the slot is free again


async def test_response_can_be_cancelled_before_the_first_step(client: httpx.AsyncClient) -> None:
    ids = [(await client.post(PATH, json=BODY)).json()["id"] for _ in range(6)]
    for id in reversed(ids):
        assert (await client.post(f"{PATH}/{id}/cancel")).json()["status"] == "cancelled"


async def test_cancel_leaves_ended_responses_unchanged(client: httpx.AsyncClient, backend: ToyBackend) -> None:
    backend.allow_forward(10_000)
    id = (await client.post(PATH, json=BODY)).json()["id"]
    ended = await wait_for(client, id, "incomplete")
    assert (await client.post(f"{PATH}/{id}/cancel")).json() == ended


async def test_delete_ends_a_response(client: httpx.AsyncClient, backend: ToyBackend) -> None:
    id = await start(client, backend)
    follower = asyncio.create_task(client.get(f"{PATH}/{id}?stream=true"))
    await asyncio.sleep(0)  # the follower begins
    assert (await client.delete(f"{PATH}/{id}")).json()["deleted"] is True
    assert (await client.get(f"{PATH}/{id}")).status_code == 404
    assert check_events(read_named_events((await follower).text))["status"] == "cancelled"


async def test_previous_response_may_be_deleted_while_the_next_one_is_written(
    client: httpx.AsyncClient, backend: ToyBackend
) -> None:
    first = (await client.post(PATH, json={**BODY, "max_output_tokens": 1})).json()["id"]
    await backend.wait_for_forward()
    backend.allow_forward()
    await wait_for(client, first, "incomplete")

    body = {**BODY, "background": False, "previous_response_id": first}
    waiting = asyncio.create_task(client.post(PATH, json=body))
    await backend.wait_for_forward()
    assert (await client.delete(f"{PATH}/{first}")).status_code == 200
    backend.allow_forward(10_000)
    second = (await waiting).json()["id"]
    assert (await client.delete(f"{PATH}/{second}")).status_code == 200
    assert (await client.get(f"{PATH}/{second}")).status_code == 404


async def test_running_responses_are_not_forgotten(opened: Open, backend: ToyBackend) -> None:
    async with opened(backend=backend, extra={"responses_max": 1}) as client:
        ids = [(await client.post(PATH, json=BODY)).json()["id"] for _ in range(3)]
        assert [(await client.get(f"{PATH}/{id}")).status_code for id in ids] == [200, 200, 200]
        backend.allow_forward(10_000)
        statuses: list[int] = []
        async with asyncio.timeout(30):
            while statuses.count(200) != 1:
                await asyncio.sleep(0)
                statuses = [(await client.get(f"{PATH}/{id}")).status_code for id in ids]
        assert statuses.count(404) == 2


async def test_full_queue_is_429(opened: Open, backend: ToyBackend) -> None:
    async with opened(backend=backend, max_queue=1) as client:
        statuses = []
        async with asyncio.timeout(30):
            while 429 not in statuses:
                statuses.append((await client.post(PATH, json=BODY)).status_code)
        assert set(statuses) == {200, 429}
        backend.allow_forward(10_000)


async def test_failure_is_reported_in_the_response(opened: Open) -> None:
    def broken(prefix: Any) -> Any:
        raise ValueError("secret")

    async with opened(scores=broken) as client:
        http = await client.post(PATH, json={**BODY, "stream": True})
        response = check_events(read_named_events(http.text))
        assert response["status"] == "failed"
        assert response["error"]["code"] == "server_error"
        assert "secret" not in http.text
        assert (await client.get(f"{PATH}/{response['id']}")).json() == response
