"""The built-in operations follow the API document: schemathesis tests all of them in a real server process."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import httpx
import pytest

from llamafw import spec
from llamafw.testing import contract
from llamafw.testing.process import running_server

KEY = "contract"
TIMEOUT = 1800  # seconds; it takes two minutes on an idle machine


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run schemathesis."""
    return subprocess.run(
        command,
        env=contract.environment(KEY),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )


def links(output: str) -> tuple[int, int]:
    """Return how many links were followed, and how many there are."""
    found = re.search(r"API Links: +(\d+) covered / (\d+) selected", output)
    assert found, output[-3000:]
    return int(found[1]), int(found[2])


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT + 60)
@pytest.mark.inventory("P-12")
def test_server_follows_its_api_document(tmp_path: Path) -> None:
    model = contract.write_model(tmp_path / "tiny.gguf")
    flags = ["--api-key", KEY, "-n", "4", "-c", "16384", *contract.all_operations_flags(tmp_path / "slots")]
    with running_server(model, *flags) as server:
        document = httpx.get(f"{server.url}/openapi.json", timeout=60).json()
        process = run(contract.command(document, tmp_path, server.url), tmp_path)
        followed, linked = links(process.stdout)
        for seed in (2, 3, 4):  # the phase ends early if a server answers a request differently when it is repeated
            if followed > linked // 2:
                break
            command = contract.command(document, tmp_path, server.url, seed=seed)
            again = run([*command, "--phases", "stateful"], tmp_path)
            assert again.returncode == 0, again.stdout[-60_000:] + again.stderr[-5_000:]
            followed = max(followed, links(again.stdout)[0])
        assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200
        log = "".join(server.output)
    assert process.returncode == 0, process.stdout[-60_000:] + process.stderr[-5_000:]

    n_operations = len(spec.operation_ids(document))
    assert re.search(rf"Tested: +{n_operations}\b", process.stdout), process.stdout[-3000:]
    assert "not applicable" not in process.stdout  # every phase has run
    assert followed > linked // 2, f"few links were followed: {followed} of {linked}"

    assert "breaks the API document" not in log
    assert "Traceback" not in log, log[-20_000:]
