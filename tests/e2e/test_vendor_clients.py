"""The Python programs of docs/anthropic.md and docs/ollama.md print what the model answers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from llamafw.testing.process import ServerProcess

DOCS = Path(__file__).parents[2] / "docs"
ADDRESS = "http://127.0.0.1:8080"


@pytest.mark.parametrize("page", ["anthropic.md", "ollama.md"])
def test_programs_print_answers(page: str, server: ServerProcess) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text("utf-8"), re.S | re.M)
    assert ADDRESS in code
    program = code.replace(ADDRESS, server.url)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Paris") >= 1
    assert done.stdout.strip()
