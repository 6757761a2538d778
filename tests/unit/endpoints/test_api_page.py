"""docs/api.md: its requests are answered, and it names every path."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import httpx
import pytest

from llamafw.spec import load_document

TEXT = (Path(__file__).parents[3] / "docs/api.md").read_text(encoding="utf-8")
COMMANDS = [line for code in re.findall(r"```sh\n(.*?)```", TEXT, re.S) for line in code.splitlines()]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("command", COMMANDS)
async def test_example_request_is_answered(client: httpx.AsyncClient, command: str) -> None:
    curl, url, flag, body = shlex.split(command)
    assert (curl, flag) == ("curl", "-d")
    response = await client.post(url.removeprefix("http://127.0.0.1:8080"), content=body)
    assert response.status_code == 200, response.text
    assert "x-llamafw-ignored-fields" not in response.headers


def test_every_path_is_named() -> None:
    named = set(re.findall(r"`(?:GET |POST )?(/[\w/.{}-]+)`", TEXT))
    assert set(load_document()["paths"]) <= named
