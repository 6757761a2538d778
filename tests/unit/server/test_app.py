"""Routes, errors, streams and the validation of responses, as clients of the whole application see them."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import httpx
import pytest

from llamafw.server.allowed_methods import AllowedMethods
from llamafw.server.errors import ErrorMiddleware, problem_of
from support.api_client import OpenClient
from support.envelope import read_error


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
async def test_unknown_paths_are_404(opened: OpenClient, path: str) -> None:
    async with opened(api_key=("secret",)) as client:
        response = await client.get(path)
    error = read_error(response, 404, "not_found_error")
    assert error["message"].startswith("GET /")
    assert error["message"].endswith(" does not exist; /docs lists every operation")
    assert len(error["message"]) < 1000


@pytest.mark.parametrize(
    ("method", "path", "named"),
    [
        ("GET", "/v1/foo", "GET /v1/foo"),
        ("POST", "/v1/foo?key=secret", "POST /v1/foo"),
        ("DELETE", "/a%20b%0d%0ac", "DELETE /a%20b%0D%0Ac"),
        ("GET", "/docs/nope.js", "GET /docs/nope.js"),
    ],
)
async def test_404_names_the_path_and_points_to_the_docs(
    client: httpx.AsyncClient, method: str, path: str, named: str
) -> None:
    error = read_error(await client.request(method, path), 404, "not_found_error")
    assert error == {
        "code": 404,
        "message": f"{named} does not exist; /docs lists every operation",
        "type": "not_found_error",
    }


@pytest.mark.inventory("H-08", "R-23")
async def test_405_names_the_allowed_methods(opened: OpenClient) -> None:
    async with opened(api_key=("secret",)) as client:
        response = await client.delete("/wait")
        error = read_error(response, 405, "method_not_allowed_error")
        assert error["message"] == "DELETE is not allowed for /wait; allowed methods: GET, HEAD, OPTIONS, POST"
        assert response.headers["allow"] == "GET, HEAD, OPTIONS, POST"
        response = await client.post("/items/5")
        assert response.headers["allow"] == "GET, HEAD, OPTIONS"
        response = await client.request("OPTIONS", "/health")
        assert (response.status_code, response.content, response.headers["allow"]) == (200, b"", "GET, HEAD, OPTIONS")


async def test_parameters_with_format_path_may_contain_slashes(client: httpx.AsyncClient) -> None:
    response = await client.get("/files/a/b%2Fc.txt/info")
    assert response.json()["path"] == {"file": "a/b/c.txt"}
    response = await client.post("/files/a/b/info")
    read_error(response, 405, "method_not_allowed_error")
    assert response.headers["allow"] == "GET, HEAD, OPTIONS"
    read_error(await client.get("/files/a/b"), 404, "not_found_error")


async def test_unusual_headers_are_accepted(client: httpx.AsyncClient) -> None:
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


@pytest.mark.inventory("R-01", "R-03", "R-05", "R-06", "R-07", "B-11", "D-27")
async def test_request_errors_are_reported_and_not_logged(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "llamafw")  # other tests may have set it lower
    error = read_error(await client.post("/fail", json={"how": "request"}), 400, "invalid_request_error")
    assert error == {
        "code": 400,
        "message": "invalid request",
        "type": "invalid_request_error",
        "param": "how",
        "hint": "try again",
    }
    error = read_error(await client.post("/fail", json={"how": "group"}), 400, "invalid_request_error")
    assert error["message"] == "inside"
    assert not caplog.records


@pytest.mark.inventory("H-09")
@pytest.mark.parametrize(("how", "type"), [("secret", "plugin_error"), ("unserializable", "plugin_error")])
async def test_unexpected_failures_are_logged_and_not_revealed(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, how: str, type: str
) -> None:
    caplog.set_level(logging.WARNING, "llamafw")  # as above
    response = await client.post("/fail", json={"how": how}, headers={"x-request-id": "abc-1"})
    read_error(response, 500, type)
    assert "secret" not in response.text
    (record,) = caplog.records
    assert "abc-1" in record.getMessage()
    assert record.exc_info


async def test_paths_of_failed_requests_are_percent_encoded_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError

    asgi = ErrorMiddleware(failing, explain=problem_of, allowed_methods=lambda path: None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(asgi), base_url="http://test") as http:
        read_error(await http.get("/a%0d%0aE%20forged"), 500, "server_error")
    (record,) = caplog.records
    assert record.getMessage() == "request -: GET /a%0D%0AE%20forged failed"


async def test_plugins_explain_their_errors(client: httpx.AsyncClient) -> None:
    error = read_error(await client.post("/fail", json={"how": "explained"}), 418, "teapot_error")
    assert error["message"] == "explained"


@pytest.mark.inventory("H-01")
async def test_every_response_has_a_request_id(client: httpx.AsyncClient) -> None:
    chosen = await client.get("/health", headers={"x-request-id": "my-id_1"})
    assert chosen.headers["x-request-id"] == "my-id_1"
    ids = {(await client.get(path)).headers["x-request-id"] for path in ("/health", "/nope", "/health")}
    assert len(ids) == 3
    for invalid in ("a b", "x" * 129, "a\x00", "<script>"):
        response = await client.get("/health", headers={"x-request-id": invalid})
        assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])
        assert response.headers["server"] == "llamafw"


async def test_streams_are_server_sent_events(client: httpx.AsyncClient) -> None:
    response = await client.post("/stream", json={"n": 2, "done": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert response.text == 'data: {"i":0}\n\ndata: {"i":1}\n\ndata: [DONE]\n\n'
    assert (await client.post("/stream", json={"n": 0})).text == ""


@pytest.mark.inventory("E-074", "E-117")
async def test_streams_that_fail_end_with_the_error(client: httpx.AsyncClient) -> None:
    response = await client.post("/stream", json={"n": 9, "fail_at": 1, "done": True})
    assert response.status_code == 200
    first, last, rest = response.text.split("\n\n")
    assert (first, rest) == ('data: {"i":0}', "")
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "failed in the stream"


async def test_streams_that_fail_before_the_first_event_are_http_errors(client: httpx.AsyncClient) -> None:
    response = await client.post("/stream", json={"n": 9, "fail_at": 0})
    assert read_error(response, 400, "invalid_request_error")["param"] == "n"
    assert (await client.get("/counts")).json()["closed"] == 1


async def test_validate_responses_refuses_wrong_responses(opened: OpenClient, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(validate_responses=True) as client:
        error = read_error(await client.get("/invalid"), 500, "plugin_error")
        assert "number must be an integer" in error["message"]
        assert "invalid, of plugin support.api, breaks the API document" in caplog.text
        stream = (await client.get("/invalid?stream=true")).text
        first, last, rest = stream.split("\n\n")
        assert (first, rest) == ('data: {"i":0}', "")
        assert "i must be an integer" in json.loads(last.removeprefix("data: "))["error"]["message"]
        for path, status in (("/health", 200), ("/nope", 404), ("/items/0", 400)):
            assert (await client.get(path)).status_code == status
        assert (await client.post("/stream", json={"n": 5, "done": True})).text.endswith('{"i":4}\n\ndata: [DONE]\n\n')
        assert (await client.post("/stream", json={"n": 5, "fail_at": 2})).text.count("data: ") == 3


async def test_validate_responses_refuses_undocumented_statuses(opened: OpenClient) -> None:
    async with opened(validate_responses=True, api_key=("k",)) as client:
        response = await client.post("/wait")  # documents no 401
    assert "the status 401 is not documented" in read_error(response, 500, "plugin_error")["message"]


async def test_responses_are_not_validated_by_default(client: httpx.AsyncClient) -> None:
    assert (await client.get("/invalid")).json() == {"number": "one"}


def test_paths_without_parameters_take_precedence_in_allow() -> None:
    parameter = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    responses: dict[str, object] = {"responses": {}}
    paths = {
        "/items/{id}": {"parameters": [parameter], "get": {"operationId": "a", **responses}},
        "/items/count": {"post": {"operationId": "b", **responses}},
    }
    allowed = AllowedMethods({"paths": paths})
    assert allowed("/items/count") == "OPTIONS, POST"
    assert allowed("/items/5") == "GET, HEAD, OPTIONS"
    assert allowed("/other") is None
