"""What the server does around endpoints: routes, keys, web pages, errors, streams, loading, hooks."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from typing import Any

import httpx
import pytest

from llamafw import ModelError, PluginError, Settings, SettingsError, hookimpl
from llamafw.plugins import Plugins
from llamafw.server.app import build_app
from support import api
from support.opened import Open, opener


def is_error(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    assert response.status_code == status
    error: dict[str, Any] = response.json()["error"]
    assert (error["code"], error["type"]) == (status, kind)
    assert error["message"]
    return error


# --- routes -----------------------------------------------------------------------------------------


@pytest.mark.inventory("H-08", "R-04", "R-23")
@pytest.mark.parametrize(
    "path",
    [
        "/nope",
        "/health/x",
        "/items",
        "/items/1/2",
        "/nope//",
        "/%00",
        "/%0d%0aX:%20y",
        "/health/",
        "/\xff",
        "/" + "9" * 5000,
    ],
)
async def test_unknown_paths(opened: Open, path: str) -> None:
    async with opened(api_key=("secret",)) as client:
        response = await client.get(path)
    is_error(response, 404, "not_found_error")


@pytest.mark.inventory("H-08", "R-23")
async def test_wrong_methods_name_the_right_ones(opened: Open) -> None:
    async with opened(api_key=("secret",)) as client:
        response = await client.delete("/wait")
        is_error(response, 405, "method_not_allowed_error")
        assert response.headers["allow"] == "GET, HEAD, OPTIONS, POST"
        response = await client.post("/items/5")
        assert response.headers["allow"] == "GET, HEAD, OPTIONS"
        response = await client.request("OPTIONS", "/health")
        assert (response.status_code, response.content, response.headers["allow"]) == (200, b"", "GET, HEAD, OPTIONS")


async def test_strange_headers_are_survived(client: httpx.AsyncClient) -> None:
    headers = [
        (b"content-length", b"x"),
        (b"host", b""),
        (b"content-type", b"\xff"),
        (b"authorization", b""),
        (b"authorization", b"Bearer"),
        (b"x-api-key", b"\xe4"),
        (b"origin", b"\xff"),
        (b"accept", b"/"),
        (b"x-request-id", b"a b\x00"),
        (b"cookie", b"=;=;"),
        (b"x-request-id", b"second"),
    ]
    for header in headers:
        response = await client.post("/echo", content=b"{}", headers=[header])
        assert response.status_code == 200, header
    assert (await client.post("/echo", content=b"{}", headers=headers[1:] * 2)).status_code == 200


# --- keys -------------------------------------------------------------------------------------------


@pytest.mark.inventory("H-05", "H-06", "R-02", "C-108", "T-17")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer one"}, 200),
        ({"authorization": "bEARER two"}, 200),
        ({"authorization": "Bearer   two  "}, 200),
        ({"authorization": "Bearer three"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": "Basic one"}, 401),
        ({"authorization": "one"}, 401),
        ({"x-api-key": "one"}, 200),
        ({"X-API-KEY": "two"}, 200),
        ({"x-api-key": "on"}, 401),
        ({"x-api-key": ""}, 401),
        ({"x-api-key": "wrong", "authorization": "Bearer one"}, 200),
        ({"authorization": "Bearer schlüssel".encode()}, 200),
        ({"authorization": b"Bearer schl\xfcssel"}, 401),
    ],
)
async def test_keys(opened: Open, headers: Any, status: int) -> None:
    async with opened(api_key=("one", "two", "schlüssel")) as client:
        response = await client.post("/echo", json={}, headers=headers)
    assert response.status_code == status
    if status == 401:
        assert is_error(response, 401, "authentication_error")["message"] == "Invalid API Key"
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.inventory("H-07")
async def test_public_operations_need_no_key(opened: Open) -> None:
    async with opened(api_key=("one",)) as client:
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/openapi.json", headers={"authorization": "Bearer wrong"})).status_code == 200
        assert (await client.get("/docs/")).status_code == 200


async def test_a_key_is_checked_before_the_body_is_read(opened: Open) -> None:
    async with opened(api_key=("one",)) as client:
        assert (await client.post("/echo", content=b"{")).status_code == 401


def test_an_empty_key_is_refused(plugins: Plugins) -> None:
    with pytest.raises(SettingsError, match="--api-key"):
        build_app(Settings(api_key=("one", "")), plugins, api.load, document=api.DOCUMENT)


# --- web pages --------------------------------------------------------------------------------------


@pytest.mark.inventory("H-02", "H-03", "H-04", "O-05")
@pytest.mark.parametrize(
    ("origins", "origin", "allowed", "credentials"),
    [
        ((), "http://localhost:5173", "http://localhost:5173", None),
        ((), "https://127.0.0.1", "https://127.0.0.1", None),
        ((), "http://[::1]:80", "http://[::1]:80", None),
        ((), "http://localhost.evil.com", None, None),
        ((), "http://evil.com", None, None),
        ((), "null", None, None),
        (("https://a.com/",), "https://a.com", "https://a.com", "true"),
        (("https://a.com",), "http://localhost", None, "true"),
        (("https://a.com", "*"), "https://b.com", "*", None),
    ],
)
async def test_cors(opened: Open, origins: Any, origin: str, allowed: str | None, credentials: str | None) -> None:
    async with opened(cors_origins=origins, api_key=("one",)) as client:
        for path, status in (("/health", 200), ("/nope", 404), ("/wait", 401)):
            response = await client.get(path, headers={"origin": origin})
            assert response.status_code == status
            assert response.headers.get("access-control-allow-origin") == allowed
            if allowed:
                assert response.headers.get("access-control-allow-credentials") == credentials
        ask = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, content-type, x-own",
        }
        response = await client.options("/echo", headers=ask)  # without a key
        if allowed is None:
            assert "see --cors-origins" in is_error(response, 400, "invalid_request_error")["message"]
        else:
            assert response.status_code == 200
            assert response.headers["access-control-allow-origin"] == allowed
            assert {"GET", "POST"} <= set(response.headers["access-control-allow-methods"].split(", "))
            assert "x-own" in response.headers["access-control-allow-headers"]


async def test_the_interactive_documentation_needs_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs", follow_redirects=True)
    assert page.status_code == 200
    links = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert len(links) >= 4
    assert not [link for link in links if "//" in link]
    for link in links:
        found = await client.get(f"/docs/{link.removeprefix('./')}")
        assert found.status_code == 200, link
        assert len(found.content) > 100
    assert '"/openapi.json"' in page.text
    assert (await client.get("/openapi.json")).json()["openapi"] == "3.0.3"


# --- errors -----------------------------------------------------------------------------------------


@pytest.mark.inventory("R-01", "R-03", "R-05", "R-06", "R-07", "B-11", "D-27")
async def test_errors_of_endpoints(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    error = is_error(await client.post("/fail", json={"how": "request"}), 400, "invalid_request_error")
    assert error == {
        "code": 400,
        "message": "you did it",
        "type": "invalid_request_error",
        "param": "how",
        "hint": "do not",
    }
    error = is_error(await client.post("/fail", json={"how": "group"}), 400, "invalid_request_error")
    assert error["message"] == "inside"
    assert not caplog.records


@pytest.mark.inventory("H-09")
@pytest.mark.parametrize(("how", "type"), [("secret", "plugin_error"), ("unwritable", "plugin_error")])
async def test_our_own_failures_are_logged_not_told(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, how: str, type: str
) -> None:
    response = await client.post("/fail", json={"how": how}, headers={"x-request-id": "abc-1"})
    is_error(response, 500, type)
    assert "secret" not in response.text
    (record,) = caplog.records
    assert "abc-1" in record.getMessage()
    assert record.exc_info


async def test_a_plugin_explains_its_errors(client: httpx.AsyncClient) -> None:
    assert is_error(await client.post("/fail", json={"how": "strange"}), 418, "teapot_error")["message"] == "explained"


@pytest.mark.inventory("H-01")
async def test_every_response_has_a_request_id(client: httpx.AsyncClient) -> None:
    own = await client.get("/health", headers={"x-request-id": "my-id_1"})
    assert own.headers["x-request-id"] == "my-id_1"
    ids = {(await client.get(path)).headers["x-request-id"] for path in ("/health", "/nope", "/health")}
    assert len(ids) == 3
    for insane in ("a b", "x" * 129, "a\x00", "<script>"):
        response = await client.get("/health", headers={"x-request-id": insane})
        assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])
        assert response.headers["server"] == "llamafw"


# --- streams ----------------------------------------------------------------------------------------


async def test_a_stream_is_events(client: httpx.AsyncClient) -> None:
    response = await client.post("/stream", json={"n": 2, "done": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert response.text == 'data: {"i":0}\n\ndata: {"i":1}\n\ndata: [DONE]\n\n'
    assert (await client.post("/stream", json={"n": 0})).text == ""


@pytest.mark.inventory("E-074", "E-117")
async def test_a_stream_that_fails_ends_with_the_error(client: httpx.AsyncClient) -> None:
    response = await client.post("/stream", json={"n": 9, "fail_at": 1, "done": True})
    assert response.status_code == 200
    first, last, rest = response.text.split("\n\n")
    assert (first, rest) == ('data: {"i":0}', "")
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "no more"


async def test_a_stream_that_fails_at_once_is_an_ordinary_error(client: httpx.AsyncClient) -> None:
    response = await client.post("/stream", json={"n": 9, "fail_at": 0})
    assert is_error(response, 400, "invalid_request_error")["param"] == "n"
    assert (await client.get("/seen")).json()["closed"] == 1


# --- responses against the document -----------------------------------------------------------------


async def test_responses_are_checked_when_asked_for(opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(validate_responses=True) as client:
        error = is_error(await client.get("/wrong"), 500, "plugin_error")
        assert "number must be an integer" in error["message"]
        assert "wrong, of plugin support.api, breaks the API document" in caplog.text
        stream = (await client.get("/wrong?stream=true")).text
        first, last, rest = stream.split("\n\n")
        assert (first, rest) == ('data: {"i":0}', "")
        assert "i must be an integer" in json.loads(last.removeprefix("data: "))["error"]["message"]
        for path, status in (("/health", 200), ("/nope", 404), ("/items/0", 400)):
            assert (await client.get(path)).status_code == status
        assert (await client.post("/stream", json={"n": 5, "done": True})).text.endswith('{"i":4}\n\ndata: [DONE]\n\n')
        assert (await client.post("/stream", json={"n": 5, "fail_at": 2})).text.count("data: ") == 3


async def test_undocumented_statuses_are_found(opened: Open) -> None:
    async with opened(validate_responses=True, api_key=("k",)) as client:
        response = await client.post("/wait")  # documents no 401
    assert "the status 401 is not documented" in is_error(response, 500, "plugin_error")["message"]


async def test_responses_are_not_checked_by_default(client: httpx.AsyncClient) -> None:
    assert (await client.get("/wrong")).json() == {"number": "one"}


# --- loading ----------------------------------------------------------------------------------------


@pytest.mark.inventory("P-01", "P-02", "R-07")
async def test_while_the_model_loads(opened: Open) -> None:
    go = threading.Event()

    def slowly() -> Any:
        assert go.wait(10)
        return api.load()

    async with opened(load=slowly, wait=False, api_key=("one",)) as client:
        for method, path in (("get", "/health"), ("post", "/echo"), ("get", "/items/1")):
            response = await client.request(method, path)
            assert is_error(response, 503, "unavailable_error")["message"] == "Loading model"
        assert (await client.get("/openapi.json")).status_code == 200
        assert (await client.get("/docs/")).status_code == 200
        is_error(await client.get("/nope"), 503, "unavailable_error")
        go.set()
        async with asyncio.timeout(10):
            while (await client.get("/health")).status_code == 503:  # noqa: ASYNC110  # a thread will end it
                await asyncio.sleep(0)
        assert (await client.get("/health")).json() == {"status": "ok", "model": "nothing"}


@pytest.mark.inventory("P-03")
@pytest.mark.parametrize(
    ("error", "traceback"), [(ModelError("a cake"), False), (KeyError("x"), True), (MemoryError(), True)]
)
async def test_a_model_that_cannot_be_loaded(
    plugins: Plugins, caplog: pytest.LogCaptureFixture, error: Exception, traceback: bool
) -> None:
    def load() -> Any:
        raise error

    failed = asyncio.Event()
    _, _, loading = build_app(Settings(), plugins, load, failed=failed.set, document=api.DOCUMENT)
    async with loading.lifespan(None):
        await asyncio.wait_for(failed.wait(), 10)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("cannot load the model: ")
    assert bool(record.exc_info) is traceback


# --- hooks ------------------------------------------------------------------------------------------


class Witness:
    """A plugin that writes down what it is told, and puts itself around the application."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.statuses: list[int] = []

    @hookimpl
    def server_started(self, app: Any) -> None:
        self.heard.append("started")
        raise ValueError("a plugin's own fault")

    @hookimpl
    def model_loaded(self, model: Any, app: Any) -> None:
        self.heard.append("loaded")

    @hookimpl
    def server_stopping(self, app: Any) -> None:
        self.heard.append("stopping")

    @hookimpl
    def wrap_asgi(self, asgi: Any, app: Any) -> Any:
        async def around(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and scope["path"] == "/broken":
                raise ValueError("a wrapper's own fault")

            async def watching(message: Any) -> None:
                if message["type"] == "http.response.start":
                    self.statuses.append(message["status"])
                await send(message)

            await asgi(scope, receive, watching)

        return around


async def test_hooks_are_called(caplog: pytest.LogCaptureFixture) -> None:
    plugins, witness = Plugins(extra=["support.api"], block=["endpoints", "metrics"]), Witness()
    plugins.pm.register(witness, name="witness")
    async with opener(plugins)() as client:
        assert witness.heard == ["started", "loaded"]
        assert "plugin witness failed in server_started" in caplog.text
        await client.get("/health")
        await client.get("/nope")
        assert witness.statuses == [200, 404]
        is_error(await client.get("/broken"), 500, "server_error")
    assert witness.heard == ["started", "loaded", "stopping"]


def test_a_wrapper_must_be_an_application() -> None:
    class Wrong:
        @hookimpl
        def wrap_asgi(self, asgi: Any, app: Any) -> Any:
            return "this is none"

    plugins = Plugins(extra=["support.api"], block=["endpoints", "metrics"])
    plugins.pm.register(Wrong(), name="wrong")
    with pytest.raises(PluginError, match="plugin wrong: wrap_asgi returned 'this is none'"):
        build_app(Settings(), plugins, api.load, document=api.DOCUMENT)


@pytest.mark.inventory("C-113")
async def test_as_many_threads_as_asked_for(opened: Open) -> None:
    def where() -> str:
        together.wait()
        return threading.current_thread().name

    together = threading.Barrier(2, timeout=10)
    async with opened(threads_http=2):
        names = await asyncio.gather(*(asyncio.to_thread(where) for _ in range(12)))
    assert sorted(set(names)) == ["llamafw-http_0", "llamafw-http_1"]
