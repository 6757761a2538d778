"""Servers that tests start as processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

from llamafw.testing.tiny import write_tiny_gguf

PARENT = """
import sys
from pathlib import Path
from llamafw.testing.process import running_server

with running_server(Path(sys.argv[1]), ready=False) as server:
    print(server.process.pid, flush=True)
    sys.stdin.read()
"""


def test_a_server_ends_if_its_parent_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(write_tiny_gguf(tmp_path / "tiny.gguf"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        server = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    try:
        server.wait(timeout=60)
    except psutil.TimeoutExpired:
        server.kill()
        raise
