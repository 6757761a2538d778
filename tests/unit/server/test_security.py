"""All operations of the document: those that need a key refuse requests without one, and none reveals secrets."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from llamafw import Settings
from llamafw.plugins import Plugins
from llamafw.spec import merged_document, operations

DOCUMENT = merged_document(Plugins(), Settings())
OPERATIONS = [(method.upper(), path, operation) for path, method, operation in operations(DOCUMENT)]
PUBLIC = {
    "GET /",
    "GET /health",
    "GET /v1/health",
    "GET /models",
    "GET /v1/models",
    "GET /models/{model}",
    "GET /v1/models/{model}",
    "GET /openapi.json",
}
ROOT = Path(__file__).parents[3]
INVALID_CREDENTIALS: list[dict[str, str]] = [
    {},
    {"authorization": "Bearer"},
    {"authorization": "Bearer Key"},
    {"authorization": "Basic key"},
    {"x-api-key": ""},
    {"authorization": "key"},
    {"x-api-key": "key2"},
    {"cookie": "authorization=Bearer key"},
]


TEXT_ERRORS = ("/", "/embed", "/embed_all", "/similarity")
"""Paths of TEI, whose errors are texts, as Ollama's are."""

COHERE_PATHS = ("/v1/embed", "/v2/embed", "/v2/rerank")


def error_of(path: str, body: Any) -> tuple[str, str | None]:
    """Return the message of an error in the format of the path's API, and its type if the format has one."""
    if path in COHERE_PATHS:
        return body["message"], None
    error = body["error"]
    if path.startswith("/api/") or path in TEXT_ERRORS:
        assert isinstance(error, str), path
        return error, None
    return error["message"], error["type"]


def url_of(path: str) -> str:
    return path.replace("{id_slot}", "0").replace("{model}", "tiny")


def test_the_documented_table_of_public_operations_is_right() -> None:
    public = {f"{method} {path}" for method, path, operation in OPERATIONS if operation.get("security") == []}
    assert public == PUBLIC
    table = re.findall(r"^\| (`.*?) \|", DOCUMENT["info"]["description"], re.M)
    documented = {name for row in table for name in re.findall(r"`(GET .*?)`", row)}
    documented |= {f"{name}/{{model}}" for name in documented if name.endswith("/models")}
    assert documented == PUBLIC
    assert all(operation.get("security", []) == [] for _, _, operation in OPERATIONS)  # others have the default
    assert DOCUMENT["security"] == [{"bearerAuth": []}, {"apiKeyAuth": []}]


@pytest.mark.inventory("H-04", "H-05", "H-06", "H-07", "R-02", "R-10", "C-108", "F-13", "D-08")
async def test_all_other_operations_need_a_key(serve: Any, tmp_path: Path) -> None:
    all_features: dict[str, Any] = {"slots": True, "props": True, "metrics": True, "slot_save_path": str(tmp_path)}
    async with serve(api_key=("key",), alias=("tiny",), **all_features) as client:
        for method, path, _ in OPERATIONS:
            url = url_of(path)
            for headers in INVALID_CREDENTIALS:
                response = await client.request(method, url, headers=headers, content=b"{")
                if f"{method} {path}" in PUBLIC:
                    assert response.status_code == 200, (method, path)
                    continue
                assert response.status_code == 401, (method, path, headers)
                assert error_of(path, response.json())[1] in (None, "authentication_error")
                assert response.headers["www-authenticate"] == "Bearer"

            for headers in ({"authorization": "Bearer key"}, {"x-api-key": "key"}):
                response = await client.request(method, url, headers=headers, content=b"{")
                assert response.status_code != 401, (method, path)

            if method == "GET":
                assert (await client.head(url)).status_code in ({200} if f"GET {path}" in PUBLIC else {401, 405})
            preflight = {"origin": "http://localhost:5173", "access-control-request-method": method}
            assert (await client.options(url, headers=preflight)).status_code == 200
        assert [(await client.get(page)).status_code for page in ("/", "/docs/", "/nope")] == [200, 200, 404]


async def test_without_keys_no_operation_needs_one(serve: Any) -> None:
    async with serve() as client:
        for method, path, _ in OPERATIONS:
            response = await client.request(method, url_of(path), content=b"{")
            assert response.status_code != 401, path


LEAKY_PLUGIN = """
import asyncio
from llamafw import RequestError, event_stream, hookimpl

HERE = __file__

class Leaky:
    options = {"leak": {"type": "string", "default": "", "description": "where to fail"}}
    truncates = False
    def __init__(self, where): self.where = where
    @classmethod
    def create(cls, options, context):
        if options["leak"] == "create": open(HERE + ".none")
        return cls(options["leak"]) if options["leak"] else None
    def apply(self, candidates):
        if self.where == "apply": open(HERE + ".none")
    def accept(self, token):
        if self.where == "accept": raise KeyError(HERE)

class Grammar:
    def __init__(self, context): pass
    def compile(self, source): raise OSError(2, "gone", HERE)

@hookimpl
def register_samplers(register): register("leaky", Leaky)

@hookimpl
def register_grammars(register): register("gbnf2", Grammar)

OK = {"200": {"description": "ok", "content": {"application/json": {"schema": {"type": "object"}}}},
      "500": {"$ref": "#/components/responses/InternalError"}}

@hookimpl
def extend_openapi():
    return {"paths": {f"/leak/{name}": {"get": {"operationId": f"leak{name}", "summary": name, "responses": OK}}
                      for name in ("raise", "group", "wrong", "stream")}}

@hookimpl
def register_endpoints(register, app):
    async def failing(call): open(HERE + ".none")
    async def grouped(call): raise ExceptionGroup(HERE, [OSError(HERE), ValueError(HERE)])
    async def wrong(call): return {HERE: object()}
    async def events():
        yield {"i": 1}
        raise OSError(HERE)
    async def streaming(call): return event_stream(events())
    for name, one in (("raise", failing), ("group", grouped), ("wrong", wrong), ("stream", streaming)):
        register(f"leak{name}", one)
"""


@pytest.mark.inventory("H-09", "B-11")
async def test_no_response_reveals_paths_or_exceptions(serve: Any, tmp_path: Path) -> None:
    (plugin := tmp_path / "leaky.py").write_text(LEAKY_PLUGIN)
    secrets = [str(tmp_path), str(ROOT), sys.prefix, f"{Path.home()}/", "Traceback", 'File "', "OSError", "KeyError"]
    responses: list[str] = []
    settings = {"slots": True, "props": True, "metrics": True, "slot_save_path": str(tmp_path)}
    async with serve(plugin=(str(plugin),), validate_responses=False, **settings) as client:
        for name in ("raise", "group", "wrong", "stream"):
            response = await client.get(f"/leak/{name}")
            assert response.status_code == (200 if name == "stream" else 500)
            assert '"code":500,' in response.text
            responses.append(response.text)

        for where in ("create", "apply", "accept"):
            for stream in (False, True):
                body = {"prompt": "a", "n_predict": 4, "leak": where, "samplers": ["leaky"], "stream": stream}
                response = await client.post("/completion", json=body)
                assert '"code":500,' in response.text
                responses.append(response.text)

        responses += [(await client.get(path)).text for method, path, _ in OPERATIONS if method == "GET"]
        missing = {"filename": "none"}
        responses.append((await client.post("/slots/0?action=restore", json=missing)).text)
        responses.append((await client.post("/slots/0?action=save", json={"filename": "x"})).text)

    assert len(responses) > 15
    for text in responses:
        assert [secret for secret in secrets if secret in text] == [], text[:2000]
    for name in ('"name":"leaky.py"', 'plugin="leaky.py"', '"plugin":"leaky.py"'):
        assert any(name in text for text in responses)


async def test_all_operations_refuse_bodies_above_the_limit(serve: Any) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b'"' + b"a" * 65535

    async with serve(max_body_mb=1) as client:
        with_body = [(method, path) for method, path, operation in OPERATIONS if "requestBody" in operation]
        assert len(with_body) > 10
        for method, path in with_body:
            url = path.replace("{id_slot}", "0?action=save")
            for more in ({"content": endless()}, {"content": b"", "headers": {"content-length": "9" * 20}}):
                response = await client.request(method, url, **more)
                assert response.status_code == 413, path
                message, kind = error_of(path, response.json())
                expected = "request_too_large" if path.startswith("/v1/messages") else "invalid_request_error"
                assert kind in (None, expected), path
                assert "--max-body-mb" in message, path
