"""Limits on the size and the time of headers, on a real connection to uvicorn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from llamafw.server.header_limits import MAX_HEADER_BYTES, http_protocol

pytest.importorskip("httptools")


@asynccontextmanager
async def connected(
    seconds: float, go: asyncio.Event | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to a server that sends "a" and, after it has read the body and ``go`` is set, "z"."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        while (await receive()).get("more_body"):
            pass
        if go is not None:
            await go.wait()
        await send({"type": "http.response.body", "body": b"z"})

    config = uvicorn.Config(app, http=http_protocol(seconds), lifespan="off", log_config=None)
    config.load()
    server = uvicorn.Server(config)
    listening = await asyncio.get_running_loop().create_server(
        lambda: config.http_protocol_class(config=config, server_state=server.server_state, app_state={}),  # type: ignore[call-arg]  # uvicorn calls it this way
        "127.0.0.1",
    )
    async with listening, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
        yield reader, writer
        writer.close()


FIRST_LINES = b"POST / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.inventory("C-112", "H-16")
@pytest.mark.parametrize("data", [b"", b"PO", FIRST_LINES, FIRST_LINES + b"A: b"])
async def test_incomplete_headers_close_the_connection(data: bytes) -> None:
    async with connected(0.01) as (reader, writer):
        writer.write(data)
        assert await reader.read() == b""


async def test_incomplete_headers_do_not_cut_the_previous_response() -> None:
    go = asyncio.Event()
    async with connected(0.001, go) as (reader, writer):
        writer.write(FIRST_LINES + b"\r\n" + FIRST_LINES)
        assert (await reader.readuntil(b"\r\n\r\na")).startswith(b"HTTP/1.1 200")
        asyncio.get_running_loop().call_later(0.1, go.set)  # much longer than headers may take
        assert await reader.read() == b"z"


@pytest.mark.parametrize("more", [b"a" * 1000, b"A: b\r\n" * 200], ids=["one header", "many headers"])
@pytest.mark.parametrize("before", [b"", FIRST_LINES + b"\r\n"], ids=["first request", "second request"])
async def test_long_headers_close_the_connection(before: bytes, more: bytes) -> None:
    async with connected(60) as (reader, writer):
        if before:
            writer.write(before)
            await reader.readuntil(b"\r\n\r\naz")

        writer.write(FIRST_LINES + b"A: ")
        sent = 0
        while not writer.is_closing() and sent < 100 * MAX_HEADER_BYTES:
            writer.write(more)
            sent += len(more)
            try:
                await writer.drain()
            except ConnectionError:
                break
            await asyncio.sleep(0)
        assert sent < 100 * MAX_HEADER_BYTES


async def test_headers_within_the_limit_and_long_bodies_are_accepted() -> None:
    async with connected(60) as (reader, writer):
        for _ in range(3):
            writer.write(FIRST_LINES + b"A: ")
            for _ in range(50):
                writer.write(b"a" * 1000)
                await writer.drain()
                await asyncio.sleep(0)
            writer.write(b"\r\nContent-Length: 200000\r\n\r\n" + b"b" * 200000)
            assert (await reader.readuntil(b"\r\n\r\naz")).startswith(b"HTTP/1.1 200")
