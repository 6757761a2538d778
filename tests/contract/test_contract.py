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


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT + 60)
@pytest.mark.inventory("P-12")
def test_server_follows_its_api_document(tmp_path: Path) -> None:
    model = contract.write_model(tmp_path / "tiny.gguf")
    flags = ["--api-key", KEY, "-n", "4", "-c", "16384", *contract.all_operations_flags(tmp_path / "slots")]
    with running_server(model, *flags) as server:
        document = httpx.get(f"{server.url}/openapi.json", timeout=60).json()
        process = subprocess.run(
            contract.command(document, tmp_path, server.url),
            env=contract.environment(KEY),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )
        assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200
        log = "".join(server.output)
    assert process.returncode == 0, process.stdout[-60_000:] + process.stderr[-5_000:]

    n_operations = len(spec.operation_ids(document))
    assert re.search(rf"Tested: +{n_operations}\b", process.stdout), process.stdout[-3000:]
    assert "not applicable" not in process.stdout  # every phase has run
    links = re.search(r"API Links: +(\d+) covered / (\d+) selected", process.stdout)
    assert links, process.stdout[-3000:]
    assert int(links[1]) > int(links[2]) // 2, f"few links were followed: {links[0]}"

    assert "breaks the API document" not in log
    assert "Traceback" not in log, log[-20_000:]
