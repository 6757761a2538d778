"""Measure how much of the machine's processor time other processes use during a measurement."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Iterable
from pathlib import Path

import psutil


class NoiseMeter:
    """Measures the processor time of other processes since its creation.

    Parameters
    ----------
    own : iterable of int
        Ids of processes that belong to the measurement, besides this one and its children.
    """

    def __init__(self, own: Iterable[int] = ()) -> None:
        self._processes = {psutil.Process(pid): 0.0 for pid in own}  # with their seconds when they were last seen
        self._start = time.perf_counter(), _busy_time(), self._own_time()

    def share(self) -> float:
        """Return the share of all cores' time that other processes have used since the creation, 0 … 1."""
        started, busy, own = self._start
        wall = (time.perf_counter() - started) * (psutil.cpu_count() or 1)
        return max(0.0, (_busy_time() - busy - (self._own_time() - own)) / wall)

    def _own_time(self) -> float:
        """Return the seconds of processor time that the measurement has used."""
        me = psutil.Process().cpu_times()
        total = me.user + me.system + me.children_user + me.children_system
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):  # Chromium ends some of its processes
                times = process.cpu_times()
                self._processes[process] = times.user + times.system
        return float(total + sum(self._processes.values()))


def machine() -> str:
    """Return a line that describes the processor."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
        flags = next((line for line in lines if line.startswith("flags")), "").split()
        known = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8") if flag in flags]
        name = f"{name} ({', '.join(known)})"
    return f"{name}, {psutil.cpu_count()} cores, Python {platform.python_version()}"


def _busy_time() -> float:
    """Return the seconds that all cores have worked since the machine started."""
    times = psutil.cpu_times()
    return float(
        sum(times)
        - times.idle
        - getattr(times, "iowait", 0.0)
        - getattr(times, "guest", 0.0)
        - getattr(times, "guest_nice", 0.0)
        - getattr(times, "steal", 0.0)
    )
