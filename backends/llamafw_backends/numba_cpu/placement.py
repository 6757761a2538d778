"""Which processors the threads run on, and how urgently: `ThreadOptions` and NUMA. It knows nothing of kernels."""

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
NICE = {-1: 10, 0: 0, 1: -5, 2: -10, 3: -20}  # by priority
REALTIME = 3


class Placement:
    """Places the threads of a pool, and the caller's, for decoding or for prompts.

    Parameters
    ----------
    pool : Pool
        Its workers are placed.
    decoding, prompts : ThreadOptions
        How, for either kind of step.
    cpus : list of frozenset of int
        The processors of each thread where the options name none; taken in turn. None: as the system does.
    log : callable
        Told once if the system allows no such priority.

    Raises
    ------
    SettingsError
        Threads cannot be bound to processors on this system, or none of those named is there.
    """

    @classmethod
    def of(cls, pool: Pool, options: BackendOptions, log: Callable[[str], None]) -> Placement | None:
        """Return what places the threads as the options say; None if they say nothing."""
        if options.threads == options.threads_batch == ThreadOptions() and options.numa is None:
            return None
        return cls(pool, options.threads, options.threads_batch, nodes(options.numa), log)

    def __init__(
        self,
        pool: Pool,
        decoding: ThreadOptions,
        prompts: ThreadOptions,
        cpus: list[frozenset[int]],
        log: Callable[[str], None],
    ) -> None:
        self._pool, self._options, self._log = pool, {False: decoding, True: prompts}, log
        self._cpus = {kind: self._bound(options, cpus) for kind, options in self._options.items()}
        self._urgent = {options.priority for options in self._options.values()} != {0}
        self._now: tuple[ThreadOptions, int] | None = None

    def place(self, *, prompts: bool) -> None:
        """Place all threads for the step to come; quick if they are placed so."""
        options, caller = self._options[prompts], threading.get_native_id()
        if self._now == (options, caller):
            return
        self._now = options, caller
        self._pool.poll(options.poll)
        cpus = self._cpus[prompts]
        for i, thread in enumerate([caller, *self._pool.workers]):
            if cpus:
                os.sched_setaffinity(thread, cpus[i % len(cpus)])
            if self._urgent:
                self._hurry(thread, options.priority)

    def _bound(self, options: ThreadOptions, cpus: list[frozenset[int]]) -> list[frozenset[int]]:
        """Return the processors of each thread, in turn; none if they are free."""
        if not options.cpus and not options.strict and not cpus:
            return []
        if not hasattr(os, "sched_setaffinity"):
            raise SettingsError(
                "threads cannot be bound to processors on this system: --cpu-mask, --cpu-range, "
                "--cpu-strict and --numa are for Linux"
            )
        there = os.sched_getaffinity(0)
        sets = [options.cpus & there] if options.cpus else [node & there for node in cpus] or [frozenset(there)]
        sets = [found for found in sets if found]
        if not sets:
            raise SettingsError(
                f"--cpu-mask, --cpu-range: none of the processors {_spans(options.cpus)} may be used; "
                f"there are {_spans(there)}"
            )
        if not options.strict:
            return sets
        # the first of each node, then the second …: threads are spread as the nodes are
        ranks = sorted((rank, i, cpu) for i, one in enumerate(sets) for rank, cpu in enumerate(sorted(one)))
        return [frozenset({cpu}) for _, _, cpu in ranks]

    def _hurry(self, thread: int, priority: int) -> None:
        try:
            if sys.platform == "linux":
                realtime = priority == REALTIME
                policy = os.SCHED_FIFO if realtime else os.SCHED_OTHER
                os.sched_setscheduler(thread, policy, os.sched_param(1 if realtime else 0))
                if not realtime:
                    os.setpriority(os.PRIO_PROCESS, thread, NICE[priority])  # of a thread, on Linux
            else:
                raise OSError("only Linux gives threads a priority of their own")
        except OSError as error:
            self._urgent = False
            self._log(f"numba backend: the threads' priority stays as it is ({error}); above 0 it wants CAP_SYS_NICE")


def nodes(kind: str | None, root: Path = NODES) -> list[frozenset[int]]:
    """Return the processors for threads in turn as ``--numa`` says; none if it says nothing.

    Nodes are read as Linux shows them (https://docs.kernel.org/admin-guide/mm/numaperf.html).
    """
    if kind is None or not hasattr(os, "sched_getaffinity"):
        return []
    allowed = frozenset(os.sched_getaffinity(0))
    if kind == "numactl":
        return [allowed]
    lists = sorted(root.glob("node[0-9]*/cpulist"), key=lambda path: int(path.parent.name[4:]))
    found = [node for path in lists if (node := _numbers(path.read_text()) & allowed)] or [allowed]
    if kind == "distribute":
        return found
    here = _current_cpu()
    return [next((node for node in found if here in node), found[0])]


def _current_cpu() -> int:
    """Return the processor that runs this thread: field 39 of its stat (proc_pid_stat(5))."""
    text = Path("/proc/thread-self/stat").read_text()
    return int(text.rpartition(")")[2].split()[36])


def _numbers(text: str) -> frozenset[int]:
    """Return the numbers in a list as Linux writes them: ``0-3,8``."""
    spans = re.findall(r"(\d+)(?:-(\d+))?", text)
    return frozenset(i for low, high in spans for i in range(int(low), int(high or low) + 1))


def _spans(numbers: frozenset[int] | set[int]) -> str:
    """Return numbers as Linux writes lists."""
    found: list[list[int]] = []
    for i in sorted(numbers):
        if found and found[-1][1] == i - 1:
            found[-1][1] = i
        else:
            found.append([i, i])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in found)
