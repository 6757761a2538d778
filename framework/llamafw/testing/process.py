"""A real server process: ``python -m llamafw serve`` on a free port, ended when it is no longer needed."""

from __future__ import annotations

import os
import queue
import re
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx


class Server:
    """A running server: its address, its process and what it has written so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.output: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self.url = self.wait_for(r"https?://[\d.]+:\d+")

    def wait_for(self, pattern: str, seconds: float = 120) -> str:
        """Return the first match of ``pattern`` in the lines to come."""
        while True:
            line = self._lines.get(timeout=seconds)
            if line is None:
                raise RuntimeError(f"the server ended, code {self.process.wait()}:\n{''.join(self.output)}")
            if found := re.search(pattern, line):
                return found.group()

    def wait_until_ready(self, seconds: float = 120, verify: ssl.SSLContext | bool = True) -> None:
        """Return when ``/health`` says ok."""
        pause = threading.Event()
        for _ in range(int(seconds / 0.02)):
            try:
                if httpx.get(f"{self.url}/health", verify=verify).status_code == 200:
                    return
            except httpx.TransportError:
                break  # it has stopped, having said why
            if self.process.poll() is not None:
                break
            pause.wait(0.02)
        raise RuntimeError(f"the server is not ready:\n{''.join(self.output)}")

    def wait_for_end(self) -> None:
        """Return when all that the process has written is in ``output``."""
        while self._lines.get(timeout=30) is not None:
            pass

    def terminate(self, seconds: float = 30) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.output.append(line)
            self._lines.put(line)
        self.process.stdout.close()
        self._lines.put(None)


@contextmanager
def running_server(model: Path | None, *flags: str, ready: bool = True, **environ: str) -> Iterator[Server]:
    """Start a server, yield it when it is ready (or listening), and end it; without ``model``, flags must name one."""
    command = [sys.executable, "-m", "llamafw", "serve", *(("-m", str(model)) if model else ()), "--port", "0", *flags]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environ}
    )
    try:
        server = Server(process)
        if ready:
            server.wait_until_ready()
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
