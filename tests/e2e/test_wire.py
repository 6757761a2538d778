"""The wire, with the default model: requests of Java's HttpClient and curl, waiting streams, unix sockets."""

from __future__ import annotations

import gzip
import json
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from llamafw.testing.process import ServerProcess, running_server

CHAT = "/v1/chat/completions"
HI = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "temperature": 0}

JAVA = """\
POST {path} HTTP/1.1
Connection: Upgrade, HTTP2-Settings
Content-Length: {n}
Host: {host}
HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA
Upgrade: h2c
User-Agent: Java-http-client/21.0.2
Content-Type: application/json

"""
CURL = """\
POST {path} HTTP/1.1
Host: {host}
User-Agent: curl/7.88.1
Accept: */*
Connection: Upgrade, HTTP2-Settings
Upgrade: h2c
HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA
Content-Length: {n}
Content-Type: application/x-www-form-urlencoded

"""


def address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


def sent(server: ServerProcess, head: str, body: object, path: str = CHAT) -> socket.socket:
    """Return a connection on which a request was sent."""
    content = json.dumps(body).encode()
    connection = socket.create_connection(address(server.url), timeout=120)
    text = head.format(path=path, n=len(content), host=server.url.removeprefix("http://"))
    connection.sendall(text.replace("\n", "\r\n").encode() + content)
    return connection


def read_until(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        piece = connection.recv(65536)
        assert piece, data
        data += piece
    return data


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(JAVA, marks=pytest.mark.client("java.net.http.HttpClient", f"POST {CHAT}")),
        pytest.param(CURL, marks=pytest.mark.client("curl --http2", f"POST {CHAT}")),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_offers_of_http2_are_answered_over_http1(server: ServerProcess, head: str, stream: bool) -> None:
    with closing(sent(server, head, {**HI, "stream": stream})) as connection:
        response = read_until(connection, b"data: [DONE]" if stream else b'"timings"')
    assert response.startswith(b"HTTP/1.1 200")
    assert b"chat.completion.chunk" in response if stream else b'"role":"assistant"' in response


def test_requests_and_responses_may_be_compressed(http: httpx.Client) -> None:
    content = gzip.compress(json.dumps({"content": "word " * 2000, "with_pieces": True}).encode())
    response = http.post("/tokenize", content=content, headers={"content-encoding": "gzip", "accept-encoding": "gzip"})
    assert response.headers["content-encoding"] == "gzip"
    assert len(response.json()["tokens"]) >= 2000


@pytest.fixture(scope="module")
def busy(real_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, Path]]:
    """A server with one slot, and its unix socket."""
    path = Path(os.path.relpath(tmp_path_factory.mktemp("sock") / "s.sock"))
    flags = ["-np", "1", "-c", "2048", "--metrics", "--sse-ping-interval", "1"]
    with running_server(real_model, *flags, "--host", f"127.0.0.1,{path}") as running:
        yield running, path


LONG = {"prompt": "Once", "n_predict": -1, "ignore_eos": True, "stream": True}
HEAD = "POST {path} HTTP/1.1\nHost: {host}\nContent-Length: {n}\n\n"


def deferred(client: httpx.Client) -> int:
    """Return how many requests wait for the slot."""
    lines = client.get("/metrics").text.splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith("llamacpp:requests_deferred "))))


def test_waiting_streams_send_comments_and_end_with_their_client(busy: tuple[ServerProcess, Path]) -> None:
    server, _ = busy
    with (
        httpx.Client(base_url=server.url, timeout=60) as client,
        closing(sent(server, HEAD, LONG, "/completion")) as running,
    ):
        read_until(running, b"data: ")
        with closing(sent(server, HEAD, {**HI, "stream": True})) as waiting:
            data = read_until(waiting, b":\n\n\r\n3\r\n:\n\n")  # the start, and a comment a second later
            assert data.startswith(b"HTTP/1.1 200")
            assert b"data:" not in data
            assert deferred(client) == 1
        with closing(sent(server, HEAD, HI)):
            while deferred(client) == 0:
                pass  # a request without a stream waits, too
        while deferred(client) > 0:
            pass  # until it is noticed that both clients have gone


def test_the_unix_socket_is_removed_at_the_end(real_model: Path, tmp_path: Path) -> None:
    path = Path(os.path.relpath(tmp_path / "s.sock"))
    with running_server(real_model, "-c", "512", "--host", f"127.0.0.1,{path}") as server:
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, base_url="http://localhost", timeout=60) as client:
            assert client.post(CHAT, json=HI).status_code == 200
        assert server.terminate() == 0
        assert not path.exists()
