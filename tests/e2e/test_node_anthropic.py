"""Anthropic's package for Node works with the server; ``npm install`` in tests/clients installs it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llamafw.testing.process import ServerProcess

FOLDER = Path(__file__).parents[1] / "clients"
PACKAGE = "@anthropic-ai/sdk"


@pytest.mark.client(
    "node:@anthropic-ai/sdk",
    "messages.create",
    "messages.stream",
    "messages.countTokens",
    "beta.messages.create",
)
def test_messages(server: ServerProcess) -> None:
    if shutil.which("node") is None:
        pytest.skip("needs Node")
    if not (FOLDER / "node_modules" / PACKAGE).is_dir():
        pytest.skip(f"needs the package {PACKAGE} for Node: run `npm install` in tests/clients")
    command = ["node", "messages.mjs", server.url]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr

    result: dict[str, Any] = json.loads(done.stdout)
    assert "Paris" in result["text"]
    assert result["text"] == result["streamed"] == result["deltas"] == result["final"]
    assert (result["types"][0], result["types"][-1]) == ("message_start", "message_stop")
    assert isinstance(result["input"]["city"], str)
    assert result["next"] == "message"
    assert result["counted"] == result["used"]
    assert result["error"] == "invalid_request_error"
