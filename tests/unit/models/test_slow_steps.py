"""A step that takes long is logged while it runs."""

from __future__ import annotations

import threading

from llamafw.models.slow_steps import log_if_slow


def test_slow_step_is_logged_while_it_runs() -> None:
    lines: list[str] = []
    logged = threading.Event()

    def log(line: str) -> None:
        lines.append(line)
        logged.set()

    with log_if_slow(log, "compiling", seconds=0):
        assert logged.wait(30)
    assert lines == ["compiling"]


def test_fast_step_is_not_logged() -> None:
    lines: list[str] = []
    with log_if_slow(lines.append, "compiling", seconds=3600):
        timers = [one for one in threading.enumerate() if isinstance(one, threading.Timer)]
        assert timers
    for timer in timers:
        timer.join(30)
        assert not timer.is_alive()
    assert lines == []
