"""Tests of the packages in ``examples/``: they are built and installed, found by llamafw, and pass their tests."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from llamafw.testing import contract
from llamafw.testing.process import running_server
from llamafw.testing.tiny import write_tiny_gguf
from support.install import Environ, install, run_tests

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FLAGS = "--backend numpy -np 2 -n 2 -c 512 --api-key contract --validate-responses"
EXAMPLES = sorted(path.parent for path in ROOT.glob("examples/*/pyproject.toml"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Environ:
    """The environment variables of a Python in which all examples are installed."""
    return install(EXAMPLES, tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def plugins(installed: Environ) -> list[Mapping[str, object]]:
    """The output of ``llamafw plugins --json`` with all examples."""
    command = [sys.executable, "-m", "llamafw", "plugins", "--json"]
    output: list[Mapping[str, object]] = json.loads(subprocess.check_output(command, env=installed))
    return output


@pytest.fixture(scope="module")
def outcomes(installed: Environ, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The outcomes of each example's tests."""
    return run_tests(EXAMPLES, installed, tmp_path_factory.mktemp("report"), config=ROOT / "pyproject.toml")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_is_found(example: Path, plugins: list[Mapping[str, object]]) -> None:
    found = [plugin for plugin in plugins if plugin["distribution"] == example.name]
    assert found
    assert all(plugin["hooks"] and not plugin["error"] for plugin in found)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_passes_its_own_tests(example: Path, outcomes: Mapping[str, list[str]]) -> None:
    assert set(outcomes[example.name]) - {"skipped"} == {"passed"}


def test_operations_match_the_api_document(installed: Environ, tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    with running_server(model, *FLAGS.split(), ready=True, **installed) as server:
        document = httpx.get(f"{server.url}/openapi.json", timeout=60).json()
        paths = contract.paths_of_plugins(document)
        command = contract.command(document, tmp_path, server.url, paths, max_examples=15)
        environ = contract.environment("contract")
        result = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout[-9000:] + result.stderr[-3000:]
    assert re.search(r"Tested: +[7-9]", result.stdout)
    log = "".join(server.output)
    assert "Traceback" not in log
    assert "breaks the API document" not in log
