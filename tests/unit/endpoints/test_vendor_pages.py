"""docs/anthropic.md and docs/ollama.md: their requests are answered, and they name every path and option."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import httpx
import pytest

from llamafw import Settings
from llamafw.plugins import Plugins
from llamafw.spec import load_document, merged_document

DOCS = Path(__file__).parents[3] / "docs"
PAGES = {name: (DOCS / name).read_text("utf-8") for name in ("anthropic.md", "ollama.md")}
COMMANDS = [
    line for text in PAGES.values() for code in re.findall(r"```sh\n(.*?)```", text, re.S) for line in code.splitlines()
]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("command", COMMANDS)
async def test_example_request_is_answered(client: httpx.AsyncClient, command: str) -> None:
    curl, url, *data = shlex.split(command)
    assert curl == "curl"
    method = "POST" if data else "GET"
    response = await client.request(method, url.removeprefix("http://127.0.0.1:8080"), content="".join(data[1:]))
    assert response.status_code == 200, response.text
    assert "x-llamafw-ignored-fields" not in response.headers


def test_every_path_is_named() -> None:
    named = {path for text in PAGES.values() for path in re.findall(r"`(?:[A-Z]+ )?(/[\w/]+)`", text)}
    paths = set(merged_document(Plugins(), Settings())["paths"]) - set(load_document()["paths"])
    ours = {path for path in paths if path.startswith(("/api/", "/v1/messages"))}
    assert len(ours) > 10
    assert ours <= named


def test_options_are_named() -> None:
    options = merged_document(Plugins(), Settings())["components"]["schemas"]["OllamaOptions"]["properties"]
    named = set(re.findall(r"`(\w+)`", PAGES["ollama.md"]))
    assert {"num_predict", "num_keep", "num_ctx", "seed", "stop", "penalize_newline"} <= named & set(options)
    assert {"temperature", "top_k", "top_p", "min_p", "mirostat", "repeat_penalty"} <= named & set(options)
