"""``llamafw`` in a terminal of its own, for tests that type and read what is shown."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

TIMEOUT = 60  # seconds until a text must be shown
READY = "<ready>"
"""Stands for the code with which prompt_toolkit begins to read: from then on, pasted text is marked."""

_BEGINS_TO_READ = "\x1b[?2004h"
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07|\x1b[@-Z\\-_=>]|[\x00-\x08\x0b-\x1a\x1c-\x1f]")
_INCOMPLETE = re.compile(r"\x1b(\[[0-?]*[ -/]*|\][^\x07]*)?$")
_RUN = """
import fcntl, runpy, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
runpy.run_module("llamafw", run_name="__main__", alter_sys=True)
"""
"""Does what ``python -m llamafw`` does, after it has made the terminal the one whose Ctrl-C it receives."""


class Terminal:
    """A running program.

    Attributes
    ----------
    process : subprocess.Popen
        The program.
    raw : str
        What it has written so far, with the codes that control the terminal.
    """

    def __init__(self, process: subprocess.Popen[bytes], fd: int) -> None:
        self.process, self.raw = process, ""
        self._fd, self._passed = fd, 0  # characters of the plain text that `expect` has passed
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def expect(self, pattern: str) -> str:
        """Wait for a text, and return what was written since the last call, up to the end of the text."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            text = plain_text(self.raw)[self._passed :]
            if match := re.search(pattern, text, re.S):
                self._passed += match.end()
                return text[: match.end()]
            if time.monotonic() > deadline or not self._receive():
                raise AssertionError(f"{pattern!r} is not shown:\n{text}")

    def enter(self, text: str) -> None:
        """Type a line when the program reads one."""
        self.expect(READY)
        self.send(f"{text}\r")

    def send(self, text: str) -> None:
        """Type a text."""
        os.write(self._fd, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.send("\x03")

    def exit_code(self) -> int:
        """Wait until the program ends; return its exit code."""
        while self._receive():
            pass
        return self.process.wait(TIMEOUT)

    def _receive(self) -> bool:
        """Wait for output; return False if the program has ended."""
        if not select.select([self._fd], [], [], TIMEOUT)[0]:
            raise AssertionError(f"nothing was written for {TIMEOUT} s:\n{plain_text(self.raw)}")
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # on Linux, the end of the output
            return False
        self.raw += self._decode(data)
        return bool(data)


def plain_text(raw: str) -> str:
    """Return a text without the codes that control a terminal, and with `READY` where the program begins to read."""
    return _ESCAPES.sub("", _INCOMPLETE.sub("", raw).replace(_BEGINS_TO_READ, READY))


@contextmanager
def running_in_terminal(*argv: str, columns: int = 80, lines: int = 24, **environ: str) -> Iterator[Terminal]:
    """Start ``llamafw`` in a terminal, yield it, and kill it at the end.

    Parameters
    ----------
    *argv : str
        Its arguments.
    columns, lines : int
        The size of the terminal.
    **environ : str
        Environment variables to add.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", **environ}
    for name in ("NO_COLOR", "COLUMNS", "LINES"):
        environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN, *argv],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(master)
