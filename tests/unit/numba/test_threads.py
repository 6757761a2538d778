"""Every thread of a pool runs every job, and idle threads sleep."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llamafw_backends.numba_cpu import simd
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler
from llamafw_backends.numba_cpu.threads import HAS_FUTEX, MAX_THREADS, Pool, work_range


def compiler() -> KernelCompiler:
    return KernelCompiler(lambda line: None)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Wait for a condition; return whether it came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        os.sched_yield()
    return True


def count(argument: int, thread: int) -> int:
    """Add one to this thread's counter."""
    simd.store_i64(simd.load_i64(argument + 64 * thread) + 1, argument + 64 * thread)
    return 0


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_every_thread_runs_every_job_once(n_threads: int) -> None:
    compile_kernel = compiler()
    job = compile_kernel("count", 2, count)
    pool = Pool(n_threads, compile_kernel)
    counters = np.zeros((MAX_THREADS, 8), np.int64)

    for _ in range(300):
        pool.run(job.address, counters.ctypes.data, n_threads)
    pool.run(job.address, counters.ctypes.data, 1)
    pool.close()

    assert list(counters[: n_threads + 1, 0]) == [301, *[300] * (n_threads - 1), 0]


@pytest.mark.parametrize("n_threads", [0, MAX_THREADS + 1])
def test_number_of_threads_is_limited(n_threads: int) -> None:
    with pytest.raises(ValueError, match=f"{n_threads} threads"):
        Pool(n_threads, compiler())


@pytest.mark.skipif(not HAS_FUTEX, reason="on other systems idle workers wake up once per millisecond")
def test_idle_workers_sleep() -> None:
    pool = Pool(3, compiler())
    workers = [t.native_id for t in threading.enumerate() if t.name.startswith("llamafw-numba")]
    assert len(workers) == 2

    def are_asleep() -> bool:
        states = [Path(f"/proc/self/task/{worker}/stat").read_text().rsplit(")", 1)[1].split()[0] for worker in workers]
        return states == ["S", "S"]

    assert wait_until(are_asleep)

    pool.close()
    assert wait_until(lambda: not any(t.name.startswith("llamafw-numba") for t in threading.enumerate()))


@pytest.mark.parametrize(("n", "n_threads"), [(0, 3), (2, 3), (36, 2), (100, 7)])
def test_work_ranges_cover_everything_once(n: int, n_threads: int) -> None:
    parts = [work_range(n, thread, n_threads) for thread in range(n_threads)]
    assert [i for first, last in parts for i in range(first, last)] == list(range(n))
