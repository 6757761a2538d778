"""The heads of requests: how long they may be, and how long they may take. A real connection, uvicorn's own server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from llamafw.server.header_limits import MOST, protocol

pytest.importorskip("httptools")


@asynccontextmanager
async def connected(
    seconds: float, go: asyncio.Event | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server that says "a" and, when the body of the request has come and it may go on, "z"."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        while (await receive()).get("more_body"):
            pass
        if go is not None:
            await go.wait()
        await send({"type": "http.response.body", "body": b"z"})

    config = uvicorn.Config(app, http=protocol(seconds), lifespan="off", log_config=None)
    config.load()
    server = uvicorn.Server(config)
    listening = await asyncio.get_running_loop().create_server(
        lambda: config.http_protocol_class(config=config, server_state=server.server_state, app_state={}),  # type: ignore[operator, call-arg]  # as uvicorn itself calls it
        "127.0.0.1",
    )
    async with listening, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        yield reader, writer
        writer.close()


BEGUN = b"POST / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.inventory("C-112", "H-16")
@pytest.mark.parametrize("head", [b"", b"PO", BEGUN, BEGUN + b"A: b"])
async def test_an_unfinished_head_is_not_waited_for(head: bytes) -> None:
    async with connected(0.01) as (reader, writer):
        writer.write(head)
        assert await reader.read() == b""


async def test_an_unfinished_head_does_not_cut_the_answer_before_it() -> None:
    go = asyncio.Event()
    async with connected(0.001, go) as (reader, writer):
        writer.write(BEGUN + b"\r\n" + BEGUN)
        assert (await reader.readuntil(b"\r\n\r\na")).startswith(b"HTTP/1.1 200")
        asyncio.get_running_loop().call_later(0.1, go.set)  # much longer than a head may take
        assert await reader.read() == b"z"


@pytest.mark.parametrize("more", [b"a" * 1000, b"A: b\r\n" * 200], ids=["one header", "many"])
@pytest.mark.parametrize("before", [b"", BEGUN + b"\r\n"], ids=["first", "second"])
async def test_a_head_has_an_end(before: bytes, more: bytes) -> None:
    async with connected(60) as (reader, writer):
        if before:
            writer.write(before)
            await reader.readuntil(b"\r\n\r\naz")
        writer.write(BEGUN + b"A: ")
        sent = 0
        while not writer.is_closing() and sent < 100 * MOST:
            writer.write(more)
            sent += len(more)
            try:
                await writer.drain()
            except ConnectionError:
                break
            await asyncio.sleep(0)
        assert sent < 100 * MOST


async def test_what_is_not_too_long_is_heard() -> None:
    async with connected(60) as (reader, writer):
        for _ in range(3):
            writer.write(BEGUN + b"A: ")
            for _ in range(50):
                writer.write(b"a" * 1000)
                await writer.drain()
                await asyncio.sleep(0)
            writer.write(b"\r\nContent-Length: 200000\r\n\r\n" + b"b" * 200000)
            await reader.readuntil(b"\r\n\r\naz")
