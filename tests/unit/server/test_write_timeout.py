"""Clients that stop reading without closing the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from llamafw.server.sse import event_stream
from llamafw.server.write_timeout import WriteTimeoutMiddleware


@pytest.mark.inventory("C-112", "H-16")
async def test_streams_that_are_not_read_are_ended() -> None:
    closed: list[bool] = []
    sent: list[str] = []

    async def events() -> AsyncIterator[Any]:
        try:
            while True:
                yield {"content": "a"}
        finally:
            closed.append(True)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await event_stream(events())(scope, receive, send)

    async def send(message: Message) -> None:
        sent.append(message["type"])
        if len(sent) > 3:  # the client's window is full
            await asyncio.Event().wait()

    async def receive() -> Message:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    with pytest.raises(ClientDisconnect):
        await asyncio.wait_for(WriteTimeoutMiddleware(app, 1e-3)({"type": "http"}, receive, send), 30)
    assert closed == [True]
    assert len(sent) == 4  # no error event follows: the client would not read it
