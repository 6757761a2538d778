"""Every distribution in ``examples/``: installed as its README says, found by llamafw, its own tests run."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path.parent for path in ROOT.glob("examples/*/pyproject.toml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_it_installs_is_found_and_passes_its_own_tests(example: Path, tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), str(example)]
    subprocess.run(install, check=True)
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    listing = [sys.executable, "-m", "llamafw", "plugins", "--json"]
    found = json.loads(subprocess.run(listing, env=environ, check=True, capture_output=True).stdout)
    assert any(one["distribution"] == example.name and one["registered"] for one in found)
    tests = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(example), str(example / "tests")]
    subprocess.run([*tests, "-p", "no:cacheprovider"], env=environ, check=True)
