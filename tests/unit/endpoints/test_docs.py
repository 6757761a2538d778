"""docs/api.md: what it shows is answered, what it names exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from llamafw.spec import load_document

TEXT = (Path(__file__).parents[3] / "docs/api.md").read_text(encoding="utf-8")
CURLS = [line for code in re.findall(r"```sh\n(.*?)```", TEXT, re.S) for line in code.splitlines()]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("line", CURLS)
async def test_every_request_is_answered(client: Any, line: str) -> None:
    curl, url, flag, body = shlex.split(line)
    assert (curl, flag) == ("curl", "-d")
    response = await client.post(url.removeprefix("http://127.0.0.1:8080"), content=body)
    assert response.status_code == 200, response.text
    assert "x-llamafw-ignored-fields" not in response.headers


def test_every_operation_is_named() -> None:
    named = set(re.findall(r"`(?:GET |POST )?(/[\w/.{}-]+)`", TEXT))
    assert set(load_document()["paths"]) <= named
