"""Clients that neither read nor go away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from llamafw.server.sse import event_stream
from llamafw.server.timeouts import WriteTimeout


@pytest.mark.inventory("C-112", "H-16")
async def test_a_stream_that_nobody_reads_is_ended() -> None:
    ended: list[bool] = []
    sent: list[str] = []

    async def events() -> AsyncIterator[Any]:
        try:
            while True:
                yield {"content": "a"}
        finally:
            ended.append(True)

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
        await asyncio.wait_for(WriteTimeout(app, 1e-3)({"type": "http"}, receive, send), 30)
    assert (len(sent), ended) == (4, [True])  # nothing is said to whom nothing reaches
