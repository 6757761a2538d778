"""Requests that offer to upgrade to another protocol, as Java's HttpClient and ``curl --http2`` send them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from llamafw.server.header_limits import http_protocol

H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA\r\n"
WEBSOCKET = b"Upgrade: websocket\r\nConnection: keep-alive, upgrade\r\nSec-WebSocket-Version: 13\r\n"
TLS = b"connection: UPGRADE\r\nupgrade: TLS/1.3, HTTP/2.0\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
SIZED = b"Content-Length: 5\r\n\r\nhello"
PROTOCOLS = ["httptools", "h11"]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Send back the method, the path, the names of the headers and the body."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    names = b",".join(sorted(name for name, _ in scope["headers"]))
    content = b" ".join([scope["method"].encode(), scope["path"].encode(), names, body, b"."])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(content))]})
    await send({"type": "http.response.body", "body": content})


@asynccontextmanager
async def connected(protocol: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to a server of `echo`."""
    if protocol == "httptools":
        pytest.importorskip("httptools")
    http = http_protocol(60) if protocol == "httptools" else "h11"
    config = uvicorn.Config(echo, http=http, ws="none", lifespan="off", log_config=None)
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


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("body", [SIZED, CHUNKED], ids=["sized", "chunked"])
@pytest.mark.parametrize("offer", [H2C, WEBSOCKET, TLS], ids=["h2c", "websocket", "TLS"])
async def test_offers_to_upgrade_are_ignored(offer: bytes, body: bytes, protocol: str) -> None:
    async with connected(protocol) as (reader, writer):
        writer.write(b"POST /a%20b HTTP/1.1\r\nHost: x\r\n" + offer + body)
        response = await reader.readuntil(b" hello .")
    assert response.startswith(b"HTTP/1.1 200")
    assert b"\r\n\r\nPOST /a b " in response
    assert b"upgrade:" not in response.lower()


class Recorder:
    """Records the headers that were complete, and the bodies."""

    def __init__(self) -> None:
        self.headers: list[bytes] = []
        self.bodies: list[bytes] = []
        self.n_complete = 0

    def on_message_begin(self) -> None:
        self.names: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        pass

    def on_header(self, name: bytes, value: bytes) -> None:
        self.names.append(name)

    def on_headers_complete(self) -> None:
        self.headers.append(b",".join(self.names))
        self.bodies.append(b"")

    def on_body(self, body: bytes) -> None:
        self.bodies[-1] += body

    def on_message_complete(self) -> None:
        self.n_complete += 1


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_offers_are_ignored_wherever_the_data_is_cut(size: int) -> None:
    parsing = pytest.importorskip("llamafw.server.request_parser")
    request = b"POST /long HTTP/1.1\r\n" + H2C + b"Host: x\r\n"
    data = request + SIZED + request + CHUNKED + request + b"\r\n"
    recorder = Recorder()
    parser = parsing.RequestParser(recorder)
    for start in range(0, len(data), size):
        parser.feed_data(data[start : start + size])

    assert recorder.bodies == [b"hello", b"hello", b""]
    assert recorder.n_complete == 3
    assert recorder.headers == [
        b"Connection,HTTP2-Settings,Host,Content-Length",
        b"Connection,HTTP2-Settings,Host,Transfer-Encoding",
        b"Connection,HTTP2-Settings,Host",
    ]


async def test_pipelined_offers_are_answered_in_order() -> None:
    async with connected("httptools") as (reader, writer):
        for path in (b"/1", b"/2", b"/3"):
            writer.write(b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + H2C + SIZED)
        writer.write(b"GET /4 HTTP/1.1\r\nHost: x\r\n" + WEBSOCKET + b"\r\n")
        for start in (b"POST /1", b"POST /2", b"POST /3"):
            assert start in await reader.readuntil(b" hello .")
        assert b"GET /4" in await reader.readuntil(b"  .")


async def test_the_other_connection_options_are_kept() -> None:
    async with connected("httptools") as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n" + SIZED)
        response = await reader.read()  # the server closes the connection
    assert b"connection: close" in response.lower()
    assert response.endswith(b" hello .")


async def test_malformed_requests_with_an_offer_are_400() -> None:
    async with connected("httptools") as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\n" + H2C + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
