"""Bind threads to processors and set their priority, as `ThreadOptions` and ``--numa`` say.

Independent of kernels.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from llamafw import BackendOptions, SettingsError, ThreadOptions
from llamafw_backends.numba_cpu.threads import Pool

NODES = Path("/sys/devices/system/node")
NICE = {-1: 10, 0: 0, 1: -5, 2: -10, 3: -20}  # niceness by priority
REALTIME = 3  # the priority with a real-time scheduler


class Placement:
    """Places the threads of a pool and the calling thread, for decoding or for prompts.

    Parameters
    ----------
    pool : Pool
        Its workers are placed.
    decoding, prompts : ThreadOptions
        The options for each kind of step.
    cpus : list of frozenset of int
        Sets of processors that threads use in turn if the options name no processors. Empty: the system decides.
    log : callable
        Called with a line, once, if the system refuses a priority.

    Raises
    ------
    SettingsError
        This system cannot bind threads to processors, or the process may use none of the named ones.
    """

    @classmethod
    def from_options(cls, pool: Pool, options: BackendOptions, log: Callable[[str], None]) -> Placement | None:
        """Return the placement that the options ask for; None if they ask for none."""
        if options.threads == options.threads_batch == ThreadOptions() and options.numa is None:
            return None
        return cls(pool, options.threads, options.threads_batch, numa_nodes(options.numa), log)

    def __init__(
        self,
        pool: Pool,
        decoding: ThreadOptions,
        prompts: ThreadOptions,
        cpus: list[frozenset[int]],
        log: Callable[[str], None],
    ) -> None:
        self._pool, self._options, self._log = pool, {False: decoding, True: prompts}, log
        self._cpus = {kind: self._cpus_by_thread(options, cpus) for kind, options in self._options.items()}
        self._sets_priority = {options.priority for options in self._options.values()} != {0}
        self._current: tuple[ThreadOptions, int] | None = None  # the options in force, and the calling thread

    def place(self, *, prompts: bool) -> None:
        """Place all threads for the next step.

        This is fast if they are already placed.
        """
        options, caller = self._options[prompts], threading.get_native_id()
        if self._current == (options, caller):
            return

        self._current = options, caller
        self._pool.set_poll_level(options.poll)
        cpus = self._cpus[prompts]
        for i, thread in enumerate([caller, *self._pool.workers]):
            if cpus:
                os.sched_setaffinity(thread, cpus[i % len(cpus)])
            if self._sets_priority:
                self._set_priority(thread, options.priority)

    def _cpus_by_thread(self, options: ThreadOptions, cpus: list[frozenset[int]]) -> list[frozenset[int]]:
        """Return the sets of processors that threads use in turn; an empty list if threads are not bound."""
        if not options.cpus and not options.strict and not cpus:
            return []
        if not hasattr(os, "sched_setaffinity"):
            raise SettingsError(
                "threads cannot be bound to processors on this system: --cpu-mask, --cpu-range, "
                "--cpu-strict and --numa are for Linux"
            )

        allowed = os.sched_getaffinity(0)
        sets = [options.cpus & allowed] if options.cpus else [node & allowed for node in cpus] or [frozenset(allowed)]
        sets = [cpu_set for cpu_set in sets if cpu_set]
        if not sets:
            raise SettingsError(
                f"--cpu-mask, --cpu-range: this process may use none of the processors {_format_list(options.cpus)}, "
                f"only {_format_list(allowed)}"
            )
        if not options.strict:
            return sets

        # the first processor of each set, then the second of each …, which spreads threads over NUMA nodes
        ranks = sorted((rank, i, cpu) for i, cpu_set in enumerate(sets) for rank, cpu in enumerate(sorted(cpu_set)))
        return [frozenset({cpu}) for _, _, cpu in ranks]

    def _set_priority(self, thread: int, priority: int) -> None:
        """Set the priority of a thread; log the first refusal and do not try again."""
        try:
            if sys.platform == "linux":
                realtime = priority == REALTIME
                policy = os.SCHED_FIFO if realtime else os.SCHED_OTHER
                os.sched_setscheduler(thread, policy, os.sched_param(1 if realtime else 0))
                if not realtime:
                    os.setpriority(os.PRIO_PROCESS, thread, NICE[priority])  # on Linux, of a single thread
            else:
                raise OSError("only Linux has priorities of single threads")
        except OSError as error:
            self._sets_priority = False
            self._log(f"numba backend: the threads' priority is not changed: {error}; above 0 it needs CAP_SYS_NICE")


def numa_nodes(kind: str | None, root: Path = NODES) -> list[frozenset[int]]:
    """Return the sets of processors that threads use in turn with ``--numa``; an empty list without it.

    Nodes are read from Linux's sysfs (https://docs.kernel.org/admin-guide/mm/numaperf.html).
    """
    if kind is None or not hasattr(os, "sched_getaffinity"):
        return []
    allowed = frozenset(os.sched_getaffinity(0))
    if kind == "numactl":
        return [allowed]

    lists = sorted(root.glob("node[0-9]*/cpulist"), key=lambda path: int(path.parent.name[4:]))
    nodes = [node for path in lists if (node := _parse_list(path.read_text()) & allowed)] or [allowed]
    if kind == "distribute":
        return nodes
    current = _current_cpu()
    return [next((node for node in nodes if current in node), nodes[0])]


def _current_cpu() -> int:
    """Return the processor that runs this thread: field 39 of its stat (proc_pid_stat(5))."""
    text = Path("/proc/thread-self/stat").read_text()
    return int(text.rpartition(")")[2].split()[36])


def _parse_list(text: str) -> frozenset[int]:
    """Return the numbers of a list in Linux's format: ``0-3,8``."""
    ranges = re.findall(r"(\d+)(?:-(\d+))?", text)
    return frozenset(i for low, high in ranges for i in range(int(low), int(high or low) + 1))


def _format_list(numbers: frozenset[int] | set[int]) -> str:
    """Return numbers as a list in Linux's format."""
    ranges: list[list[int]] = []
    for i in sorted(numbers):
        if ranges and ranges[-1][1] == i - 1:
            ranges[-1][1] = i
        else:
            ranges.append([i, i])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)
