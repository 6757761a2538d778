"""The packages of vendors for Node work with the server.

``make node`` installs them into tests/clients.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llamafw.testing.process import ServerProcess

FOLDER = Path(__file__).parents[1] / "clients"


def run(script: str, package: str, *arguments: str) -> dict[str, Any]:
    """Run a script with Node; return the JSON that it prints."""
    if shutil.which("node") is None:
        pytest.skip("needs Node")
    if not (FOLDER / "node_modules" / package).is_dir():
        pytest.skip(f"needs the package {package} for Node: run `make node`")
    done = subprocess.run(
        ["node", script, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


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
