"""Tests that run the commands and programs in the README and in the guides of docs."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from llamafw.testing.process import ServerProcess, running_server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
ADDRESS = "http://127.0.0.1:8080"
GUIDES = ("api", "grammars", "responses", "openai", "llama-server")
PAGES = [README, *((ROOT / f"docs/{name}.md").read_text(encoding="utf-8") for name in GUIDES)]
CURLS = re.findall(r"^curl .*$", "\n".join(PAGES), re.M)


@pytest.fixture(scope="module")
def server(real_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the default model, the README's plugin, and the operations that need a flag."""
    (code,) = [code for language, code in BLOCKS if language == "python" and "hookimpl" in code]
    folder = tmp_path_factory.mktemp("readme")
    plugin = folder / "sharpen.py"
    plugin.write_text(code)
    with running_server(real_model, "--plugin", str(plugin), "--metrics", "--slot-save-path", str(folder)) as process:
        yield process


@pytest.mark.parametrize("line", CURLS)
def test_curl_commands_are_answered(server: ServerProcess, line: str) -> None:
    _, url, *body = shlex.split(line)
    assert not body or body[0] == "-d"

    method, content = ("POST", body[1]) if body else ("GET", None)
    response = httpx.request(method, url.replace(ADDRESS, server.url), content=content, timeout=60)
    assert response.status_code == 200, response.text
    assert "x-llamafw-ignored-fields" not in response.headers
    assert len(response.text) > 2


@pytest.mark.inventory("P-11")
def test_openai_program_prints_an_answer(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [code for language, code in BLOCKS if language == "python" and "OpenAI" in code]
    scope: dict[str, object] = {}
    exec(code.replace(ADDRESS, server.url), scope)
    assert len(capsys.readouterr().out.strip()) > 3
    scope["client"].close()  # type: ignore[attr-defined]  # the program's variable


OPENAI = pytest.mark.client(
    "openai",
    "chat.completions.create",
    "chat.completions.stream",
    "chat.completions.parse",
    "completions.create",
    "embeddings.create",
    "models.list",
)


@pytest.mark.parametrize(
    ("name", "n_programs"), [("grammars", 4), ("responses", 5), pytest.param("openai", 5, marks=OPENAI)]
)
def test_programs_of_a_guide_run_in_order(
    server: ServerProcess, capsys: pytest.CaptureFixture[str], name: str, n_programs: int
) -> None:
    page = (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")
    blocks: list[str] = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(blocks) == n_programs

    scope: dict[str, object] = {"__name__": name}  # pydantic looks types up in the module
    for block in blocks:
        exec(compile(block.replace(ADDRESS, server.url), f"docs/{name}.md", "exec", dont_inherit=True), scope)
        if "print" in block:
            assert capsys.readouterr().out.strip(), block
    scope["client"].close()  # type: ignore[attr-defined]  # the page's variable


def test_fields_without_effect_are_named_in_the_header(server: ServerProcess) -> None:
    page = (ROOT / "docs/openai.md").read_text(encoding="utf-8")
    fields = re.findall(r"`(\w+)`", page.partition("- **No effect**: ")[2].partition(" and\n")[0])
    assert len(fields) == 8

    messages = [{"role": "user", "content": "Hi"}]
    body = {"messages": messages, "max_tokens": 1} | dict.fromkeys(fields, "low")
    response = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert response.status_code == 200, response.text
    assert response.headers["x-llamafw-ignored-fields"].split(", ") == fields


def test_plugin_field_is_in_the_api_document(server: ServerProcess) -> None:
    document = httpx.get(f"{server.url}/openapi.json", timeout=60).json()
    assert "sharpen" in json.dumps(document["components"]["schemas"]["CompletionRequest"])


@pytest.mark.inventory("P-10")
def test_make_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = re.findall(r"^make (\w+)", README, re.M)
    assert commands == ["serve", "quick", "test"]
    assert all(f"\n{target}:" in makefile for target in commands)
