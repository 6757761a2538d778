"""Formats of errors that plugins register for their paths."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llamafw.plugins import Plugins
from support.api import BUILT_IN_APIS
from support.api_client import client_opener

PLUGIN = """
from llamafw import hookimpl

def echo_errors(problem): return problem.status, {"echo": problem.message, "retry": problem.retry_after}
def item_errors(problem): return 418, [problem.type, problem.param]
def broken_errors(problem): raise ValueError("broken format")

@hookimpl
def register_error_formats(register):
    register("/echo", echo_errors)
    register("/items", item_errors)
    register("/items/7", echo_errors)
    register("/fail", broken_errors)
"""


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    (tmp_path / "formats.py").write_text(PLUGIN)
    plugins = Plugins(extra=["support.api", str(tmp_path / "formats.py")], block=BUILT_IN_APIS)
    async with contextlib.AsyncExitStack() as stack:
        yield await stack.enter_async_context(client_opener(plugins)(api_key=("key",)))


KEY = {"Authorization": "Bearer key"}


async def test_all_errors_of_a_path_have_its_format(client: httpx.AsyncClient) -> None:
    unauthorized = await client.post("/echo", json={})
    assert (unauthorized.status_code, unauthorized.json()["echo"]) == (401, "Invalid API Key")
    assert unauthorized.headers["www-authenticate"] == "Bearer"

    wrong_method = await client.get("/echo", headers=KEY)
    assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "OPTIONS, POST")
    assert wrong_method.json()["echo"].startswith("GET is not allowed for /echo")

    invalid = await client.post("/echo", content=b"{", headers=KEY)
    assert (invalid.status_code, "not valid JSON" in invalid.json()["echo"]) == (400, True)
    missing = await client.get("/echo/missing/path", headers=KEY)
    assert (missing.status_code, list(missing.json())) == (404, ["echo", "retry"])


async def test_a_format_chooses_the_status(client: httpx.AsyncClient) -> None:
    response = await client.get("/items/0", headers=KEY)
    assert (response.status_code, response.json()) == (418, ["invalid_request_error", "item_id"])


async def test_the_longest_path_counts(client: httpx.AsyncClient) -> None:
    assert "echo" in (await client.get("/items/7/x", headers=KEY)).json()
    assert (await client.get("/items/70/x", headers=KEY)).status_code == 418


@pytest.mark.parametrize("path", ["/echoes", "/ech", "/item", "/counts/x"])
async def test_other_paths_have_the_usual_format(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path, headers=KEY)
    assert response.json()["error"]["code"] == response.status_code == 404


async def test_a_format_that_fails_is_replaced_and_logged(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "llamafw.plugins")
    response = await client.post("/fail", json={"how": "request"}, headers=KEY)
    assert response.status_code == response.json()["error"]["code"] == 400
    assert any("broken format" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("thing", ["", 7])
def test_only_functions_are_formats(thing: Any, tmp_path: Path) -> None:
    code = f"from llamafw import hookimpl\n@hookimpl\ndef register_error_formats(register): register('/a', {thing!r})\n"
    (tmp_path / "wrong.py").write_text(code)
    with pytest.raises(Exception, match="error format '/a'.*function"):
        Plugins(extra=[str(tmp_path / "wrong.py")])
