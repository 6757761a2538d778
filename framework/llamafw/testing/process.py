"""Run a real server for tests: ``llamafw serve`` as a process of its own, on a free port."""

from __future__ import annotations

import os
import queue
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

START_TIMEOUT = 300  # seconds; the first server of a fresh installation waits for Numba to compile its kernels
POLL_INTERVAL = 0.02  # seconds between two requests to /health
_RUN = """
import os, runpy, threading
threading.Thread(target=lambda: os.read(0, 1) or os._exit(1), daemon=True).start()
runpy.run_module("llamafw", run_name="__main__", alter_sys=True)
"""
"""Does what ``python -m llamafw`` does, until standard input ends because the parent process has ended."""


class ServerProcess:
    """A running server process: its URL, its output so far, and ways to wait for it.

    Attributes
    ----------
    process : subprocess.Popen
        The process.
    output : list of str
        The lines that it has written to stdout and stderr so far.
    url : str
        The address that it listens on, such as ``http://127.0.0.1:40123``.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.output: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()  # None: the output has ended
        threading.Thread(target=self._read_output, daemon=True).start()
        self.url = self.wait_for(r"https?://[\d.]+:\d+")

    def wait_for(self, pattern: str, seconds: float = START_TIMEOUT) -> str:
        """Return the first match of ``pattern`` in lines that no earlier call has read.

        Raises
        ------
        RuntimeError
            The server has ended, or has written no line for ``seconds``.
        """
        while True:
            try:
                line = self._lines.get(timeout=seconds)
            except queue.Empty:
                raise self._error(f"the server has written nothing for {seconds} s; expected {pattern!r}") from None
            if line is None:
                raise self._error(f"the server ended with exit code {self.process.wait()}")
            if match := re.search(pattern, line):
                return match.group()

    def wait_until_ready(self, seconds: float = START_TIMEOUT, verify: ssl.SSLContext | bool = True) -> None:
        """Wait until ``GET /health`` answers 200.

        Raises
        ------
        RuntimeError
            The server has ended, or is not ready after ``seconds``.
        """
        pause = threading.Event()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health", verify=verify, timeout=seconds).status_code == 200:
                    return
            except httpx.TransportError:
                break  # the server has stopped listening; its output says why
            pause.wait(POLL_INTERVAL)
        raise self._error("the server is not ready")

    def wait_for_end(self) -> None:
        """Wait until everything that the process has written is in ``output``."""
        while self._lines.get(timeout=30) is not None:
            pass

    def terminate(self, seconds: float = 30) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def _read_output(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.output.append(line)
            self._lines.put(line)
        self.process.stdout.close()
        self._lines.put(None)

    def _error(self, message: str) -> RuntimeError:
        return RuntimeError(f"{message}:\n{''.join(self.output)}")


@contextmanager
def running_server(model: Path | None, *flags: str, ready: bool = True, **environ: str) -> Iterator[ServerProcess]:
    """Start a server, yield it, and kill it at the end.

    The server also ends if this process is killed.

    Parameters
    ----------
    model : Path or None
        The model file. Without one, the flags or the environment must name a model.
    *flags : str
        Further flags of ``llamafw serve``.
    ready : bool
        Wait until the model is loaded; otherwise yield as soon as the server listens.
    **environ : str
        Environment variables to add.
    """
    command = [sys.executable, "-c", _RUN, "serve", *(("-m", str(model)) if model else ()), "--port", "0", *flags]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environ},
    )
    try:
        server = ServerProcess(process)
        if ready:
            server.wait_until_ready()
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stdin
        process.stdin.close()
