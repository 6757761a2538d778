"""The access log: every request is one line, and no client can make it look like another."""

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
from llamafw.server.access import AccessLog
from support.opened import Open, opener

Lines = Callable[[], list[str]]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    """What the access log has written."""
    caplog.set_level(logging.INFO, logger="llamafw.access")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "llamafw.access"]


@pytest.mark.inventory("P-08")
async def test_every_request_is_one_line(opened: Open, lines: Lines, caplog: pytest.LogCaptureFixture) -> None:
    sent = [
        ("GET", "/health?key=secret", 200),
        ("GET", "/nope", 404),
        ("DELETE", "/echo", 405),
        ("POST", "/echo", 401),
        ("OPTIONS", "/health", 200),
    ]
    ids = []
    async with opened(api_key=("secret",)) as client:
        for method, path, _ in sent:
            ids.append((await client.request(method, path)).headers["x-request-id"])
        known = {"authorization": "Bearer secret"}
        async with client.stream("POST", "/stream", json={"n": 3}, headers=known) as response:
            ids.append(response.headers["x-request-id"])
            await response.aread()
        for how, status in (("request", 400), ("secret", 500)):
            answer = await client.post("/fail", json={"how": how}, headers=known)
            assert answer.status_code == status
            ids.append(answer.headers["x-request-id"])
    form = r"(\S+) (\S+) (\d{3}) \d+\.\d\d ms, client 127\.0\.0\.1:123, request ([0-9a-f]{32})"
    found = [re.fullmatch(form, line) for line in lines()]
    assert all(found), lines()
    expected = [(method, path.partition("?")[0], str(status)) for method, path, status in sent]
    expected += [("POST", "/stream", "200"), ("POST", "/fail", "400"), ("POST", "/fail", "500")]
    assert [match.groups()[:3] for match in found if match] == expected
    assert [match[4] for match in found if match] == ids
    records = [record for record in caplog.records if record.name == "llamafw.access"]
    assert records[0].fields.keys() == {"method", "path", "status", "ms", "client"}  # type: ignore[attr-defined]  # ours
    assert "secret" not in "".join(lines())


@pytest.mark.inventory("P-08")
async def test_pages_of_web_sites_are_lines_too(opened: Open, lines: Lines) -> None:
    """Answers to preflights, and to plugins' pages, come from further out than operations."""
    preflight = {"origin": "https://example.com", "access-control-request-method": "POST"}
    async with opened() as client:
        await client.options("/echo", headers=preflight)
        await client.get("/docs/")
    assert [line.split()[:3] for line in lines()] == [["OPTIONS", "/echo", "400"], ["GET", "/docs/", "200"]]


async def ended(scope: Any, *messages: tuple[str, Any], raised: type[BaseException] | None = None) -> None:
    """Let the access log see a request and what an application does about it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for kind, value in messages:
            key = "status" if kind == "start" else "more_body"
            await send({"type": f"http.response.{kind}", key: value})
        if raised:
            raise raised

    async def send(message: Any) -> None: ...

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": None} | scope
    await AccessLog(app)(scope, None, send)  # type: ignore[arg-type]  # nobody receives


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
async def test_a_path_is_one_word(lines: Lines, path: str, seen: str) -> None:
    await ended({"path": path}, ("start", 204), ("body", False))
    (line,) = lines()
    assert line.split()[:3] == ["GET", seen, "204"]


async def test_a_client_is_one_word_whatever_a_proxy_says(lines: Lines) -> None:
    await ended({"client": ("1.2.3.4:5, request 6\n", 0)}, ("start", 204), ("body", False))
    assert " client 1.2.3.4:5%2C%20request%206%0A:0, request -" in lines()[0]


@pytest.mark.parametrize(
    ("messages", "raised", "status"),
    [
        ([], None, 499),  # as `ErrorMiddleware` leaves it when the client went away before the answer
        ([("start", 200), ("body", True)], None, 499),
        ([("start", 200), ("body", True), ("body", False)], None, 200),
        ([("start", 200), ("body", True)], ValueError, 500),
        ([("start", 200), ("body", True)], asyncio.CancelledError, 503),
    ],
)
async def test_how_it_ended(lines: Lines, messages: list[Any], raised: Any, status: int) -> None:
    with pytest.raises(raised) if raised else nullcontext():
        await ended({}, *messages, raised=raised)
    (line,) = lines()
    assert line.startswith(f"GET / {status} ")
    assert line.endswith("client -:0, request -")


async def test_nothing_is_done_for_a_log_that_nobody_keeps(caplog: pytest.LogCaptureFixture, opened: Open) -> None:
    caplog.set_level(logging.WARNING, logger="llamafw.access")
    async with opened() as client:
        assert (await client.get("/health")).status_code == 200
    assert not caplog.records


class Asking:
    """A plugin that answers with the id of the request it answers."""

    @hookimpl
    def wrap_asgi(self, asgi: Any, app: Any) -> Any:
        async def around(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and scope["path"] == "/id":
                await asyncio.sleep(0)
                id = await asyncio.to_thread(request_id)
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": id.encode()})
            else:
                await asgi(scope, receive, send)

        return around


async def test_plugins_know_the_request_they_work_for() -> None:
    plugins = Plugins(extra=["support.api"], block=["endpoints", "metrics"])
    plugins.pm.register(Asking(), name="asking")
    async with opener(plugins)() as client:
        ids = [f"id-{i}" for i in range(20)]
        answers = await asyncio.gather(*(client.get("/id", headers={"x-request-id": id}) for id in ids))
    assert [answer.text for answer in answers] == ids
    assert request_id() == "-"
