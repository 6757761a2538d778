"""Finds out how much memory this process may use: that of the machine, or less if a container limits it.

On Linux, limits of control groups count, of both versions
(https://docs.kernel.org/admin-guide/cgroup-v2.html#memory and cgroup-v1/memory.html).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory that this process may use, in bytes."""

    total: int  # of the machine or the container
    available: int  # what is free now, or can be freed at once, with free swap space


def read_memory(root: Path = _ROOT) -> Memory:
    """Return how much memory there is.

    Parameters
    ----------
    root : Path
        Where ``/proc`` and ``/sys`` are.
    """
    machine = psutil.virtual_memory()
    total, available = machine.total, machine.available + psutil.swap_memory().free
    for limit, used in _limits(root):
        total, available = min(total, limit), min(available, max(limit - used, 0))
    return Memory(total, available)


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """Yield the limit of each control group that this process is in, and what is used of it, without file caches."""
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds == "":
                names = "memory.max", "memory.current", ("inactive_file", "active_file")
                yield from _of_path(root / "sys/fs/cgroup", path, *names)
            elif "memory" in kinds.split(","):
                files = ("total_inactive_file", "total_active_file")
                names = "memory.limit_in_bytes", "memory.usage_in_bytes", files
                yield from _of_path(root / "sys/fs/cgroup/memory", path, *names)


def _of_path(base: Path, path: str, limit: str, usage: str, reclaimable: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """Yield the limit and the use of a group and of those that it is in.

    In a container, ``path`` may be that outside, which does not exist here: then only the outermost group is seen.
    """
    group = base / path.strip("/")
    for folder in (group, *group.parents):
        with suppress(OSError, ValueError):  # no such group, or "max": no limit
            n_limit, n_used = int((folder / limit).read_text()), int((folder / usage).read_text())
            lines = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
            yield n_limit, n_used - sum(int(n) for name, n in lines if name in reclaimable)
        if folder == base:
            return
