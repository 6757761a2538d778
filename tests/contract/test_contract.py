"""Schemathesis over every operation of a real server process: does it keep every promise of its own document?"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import httpx
import pytest

from llamafw import spec
from llamafw.testing import contract
from support.server import running_server

KEY = "contract"


@pytest.mark.inventory("P-12")
def test_the_server_keeps_its_promises(tmp_path: Path) -> None:
    model = contract.write_model(tmp_path / "tiny.gguf")
    flags = ["--api-key", KEY, "-n", "4", "-c", "16384", *contract.everything(tmp_path / "slots")]
    with running_server(model, *flags) as server:
        document = httpx.get(f"{server.url}/openapi.json").json()
        done = subprocess.run(
            contract.command(document, tmp_path, server.url),
            env=contract.environment(KEY),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )
        assert httpx.get(f"{server.url}/health").status_code == 200
        log = "".join(server.output)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    n_operations = len(spec.operation_ids(document))
    assert re.search(rf"Tested: +{n_operations}\b", done.stdout), done.stdout[-3000:]
    assert "not applicable" not in done.stdout  # every phase has run
    links = re.search(r"API Links: +(\d+) covered / (\d+) selected", done.stdout)
    assert links, done.stdout[-3000:]
    assert int(links[1]) > int(links[2]) // 2, f"few links were followed: {links[0]}"
    assert "breaks the API document" not in log
    assert "Traceback" not in log, log[-20_000:]
