"""The access log: every request is one line, and clients cannot forge lines."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from llamafw import hookimpl, request_id
from llamafw.plugins import Plugins
from llamafw.server.access_log import AccessLogMiddleware
from support.api import BUILT_IN_APIS
from support.api_client import OpenClient, client_opener

Lines = Callable[[], list[str]]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """Return a function that returns the lines of the access log so far."""
    caplog.set_level(logging.INFO, logger="llamafw.access")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "llamafw.access"]


@pytest.mark.inventory("P-08")
async def test_every_request_is_one_line(opened: OpenClient, lines: Lines, caplog: pytest.LogCaptureFixture) -> None:
    requests = [
        ("GET", "/health?key=secret", 200),
        ("GET", "/nope", 404),
        ("DELETE", "/echo", 405),
        ("POST", "/echo", 401),
        ("OPTIONS", "/health", 200),
    ]
    ids = []
    async with opened(api_key=("secret",)) as client:
        for method, path, _ in requests:
            ids.append((await client.request(method, path)).headers["x-request-id"])

        key = {"authorization": "Bearer secret"}
        async with client.stream("POST", "/stream", json={"n": 3}, headers=key) as response:
            ids.append(response.headers["x-request-id"])
            await response.aread()
        for how, status in (("request", 400), ("secret", 500)):
            failed = await client.post("/fail", json={"how": how}, headers=key)
            assert failed.status_code == status
            ids.append(failed.headers["x-request-id"])

    pattern = r"(\S+) (\S+) (\d{3}) \d+\.\d\d ms, client 127\.0\.0\.1:123, request ([0-9a-f]{32})"
    matches = [re.fullmatch(pattern, line) for line in lines()]
    assert all(matches), lines()
    expected = [(method, path.partition("?")[0], str(status)) for method, path, status in requests]
    expected += [("POST", "/stream", "200"), ("POST", "/fail", "400"), ("POST", "/fail", "500")]
    assert [match.groups()[:3] for match in matches if match] == expected
    assert [match[4] for match in matches if match] == ids

    records = [record for record in caplog.records if record.name == "llamafw.access"]
    assert records[0].fields.keys() == {"method", "path", "status", "ms", "client"}  # type: ignore[attr-defined]  # set by the access log
    assert "secret" not in "".join(lines())


@pytest.mark.inventory("P-08")
async def test_preflights_and_pages_are_logged(opened: OpenClient, lines: Lines) -> None:
    """Both are answered before routing."""
    preflight = {"origin": "https://example.com", "access-control-request-method": "POST"}
    async with opened() as client:
        await client.options("/echo", headers=preflight)
        await client.get("/docs/")
    assert [line.split()[:3] for line in lines()] == [["OPTIONS", "/echo", "200"], ["GET", "/docs/", "200"]]


async def log_one_request(scope: Any, *messages: tuple[str, Any], raised: type[BaseException] | None = None) -> None:
    """Log a request that an application answers with these messages."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for kind, value in messages:
            key = "status" if kind == "start" else "more_body"
            await send({"type": f"http.response.{kind}", key: value})
        if raised:
            raise raised

    async def send(message: Any) -> None: ...

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": None} | scope
    await AccessLogMiddleware(app)(scope, None, send)  # type: ignore[arg-type]  # `receive` is never called


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/a\r\nI llamafw.access: GET /b 200", "/a%0D%0AI%20llamafw.access%3A%20GET%20/b%20200"),
        ("/\x1b[2J\u2028", "/%1B%5B2J%E2%80%A8"),
        ("/é", "/%C3%A9"),
        ("/\udc80", "/%3F"),
        ("/" + "9" * 5000, "/" + "9" * 255),
    ],
)
async def test_paths_are_percent_encoded_and_short(lines: Lines, path: str, seen: str) -> None:
    await log_one_request({"path": path}, ("start", 204), ("body", False))
    (line,) = lines()
    assert line.split()[:3] == ["GET", seen, "204"]


async def test_client_addresses_are_percent_encoded(lines: Lines) -> None:
    await log_one_request({"client": ("1.2.3.4:5, request 6\n", 0)}, ("start", 204), ("body", False))
    assert " client 1.2.3.4:5%2C%20request%206%0A:0, request -" in lines()[0]


@pytest.mark.parametrize(
    ("messages", "raised", "status"),
    [
        ([], None, 499),  # ErrorMiddleware sends nothing if the client disconnected before the response
        ([("start", 200), ("body", True)], None, 499),
        ([("start", 200), ("body", True), ("body", False)], None, 200),
        ([("start", 200), ("body", True)], ValueError, 500),
        ([("start", 200), ("body", True)], asyncio.CancelledError, 503),
    ],
)
async def test_status_says_how_the_request_ended(lines: Lines, messages: list[Any], raised: Any, status: int) -> None:
    with pytest.raises(raised) if raised else nullcontext():
        await log_one_request({}, *messages, raised=raised)
    (line,) = lines()
    assert line.startswith(f"GET / {status} ")
    assert line.endswith("client -:0, request -")


async def test_nothing_is_logged_above_level_info(caplog: pytest.LogCaptureFixture, opened: OpenClient) -> None:
    caplog.set_level(logging.WARNING, logger="llamafw.access")
    async with opened() as client:
        assert (await client.get("/health")).status_code == 200
    assert not caplog.records


class RequestIdPlugin:
    """A plugin that answers ``GET /id`` with the id of the request."""

    @hookimpl
    def wrap_asgi(self, asgi: Any, app: Any) -> Any:
        async def wrapper(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and scope["path"] == "/id":
                await asyncio.sleep(0)
                id = await asyncio.to_thread(request_id)
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": id.encode()})
            else:
                await asgi(scope, receive, send)

        return wrapper


async def test_plugins_can_read_the_request_id() -> None:
    plugins = Plugins(extra=["support.api"], block=BUILT_IN_APIS)
    plugins.pm.register(RequestIdPlugin(), name="request-id")
    async with client_opener(plugins)() as client:
        ids = [f"id-{i}" for i in range(20)]
        responses = await asyncio.gather(*(client.get("/id", headers={"x-request-id": id}) for id in ids))
    assert [response.text for response in responses] == ids
    assert request_id() == "-"
