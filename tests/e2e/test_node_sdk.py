"""The packages of vendors for Node work with the server.

``make node`` installs them into tests/clients.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llamafw.testing.process import ServerProcess

FOLDER = Path(__file__).parents[1] / "clients"
PAGE = Path(__file__).parents[2] / "docs/openai.md"


def run(script: str, package: str, *arguments: str) -> dict[str, Any]:
    """Run a script with Node; return the JSON that it prints."""
    result: dict[str, Any] = json.loads(run_node(package, script, *arguments))
    return result


def run_node(package: str, *arguments: str) -> str:
    """Run Node where a package is installed; return what it prints."""
    if shutil.which("node") is None:
        pytest.skip("needs Node")
    if not (FOLDER / "node_modules" / package).is_dir():
        pytest.skip(f"needs the package {package} for Node: run `make node`")
    done = subprocess.run(["node", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.client(
    "node:openai",
    "responses.create",
    "responses.stream",
    "responses.retrieve",
    "responses.cancel",
    "responses.delete",
    "responses.inputItems.list",
    "responses.inputTokens.count",
)
def test_openai_package_for_node_reads_responses(server: ServerProcess) -> None:
    result = run("responses.mjs", "openai", f"{server.url}/v1")
    assert "Paris" in result["text"]
    assert result["text"] == result["streamed"] == result["final"] == result["deltas"]
    assert result["types"][:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert result["types"][-1] in ("response.completed", "response.incomplete")
    assert result["arguments"]
    assert all(isinstance(arguments["city"], str) for arguments in result["arguments"])
    assert result["next"] in ("completed", "incomplete")
    assert result["items"][:2] == ["message", "function_call"]
    assert result["items"][-1] == "function_call_output"
    assert result["counted"] == result["used"]
    assert result["cancelled"] == result["retrieved"] == "cancelled"
    assert result["deleted"] is True


@pytest.mark.client("node:openai", "chat.completions.create", "chat.completions.stream", "embeddings.create")
def test_program_of_the_page_prints_answers(server: ServerProcess) -> None:
    (code,) = re.findall(r"^```js\n(.*?)^```", PAGE.read_text("utf-8"), re.S | re.M)
    assert "http://127.0.0.1:8080" in code
    program = code.replace("http://127.0.0.1:8080", server.url)
    whole, streamed, dimensions = run_node("openai", "--input-type=module", "--eval", program).splitlines()
    assert whole == streamed
    assert "Paris" in whole
    assert re.fullmatch(r"[1-9]\d+ dimensions", dimensions)


@pytest.mark.client(
    "node:@anthropic-ai/sdk",
    "messages.create",
    "messages.stream",
    "messages.countTokens",
    "beta.messages.create",
)
def test_anthropic_package_for_node_reads_messages(server: ServerProcess) -> None:
    result = run("messages.mjs", "@anthropic-ai/sdk", server.url)
    assert "Paris" in result["text"]
    assert result["text"] == result["streamed"] == result["deltas"] == result["final"]
    assert (result["types"][0], result["types"][-1]) == ("message_start", "message_stop")
    assert isinstance(result["input"]["city"], str)
    assert result["next"] == "message"
    assert result["counted"] == result["used"]
    assert result["error"] == "invalid_request_error"
