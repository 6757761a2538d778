"""Run kernels on a pool of worker threads.

Independent of models.

A job is a kernel ``job(argument, thread) -> 0``, run by threads 0 … n − 1 at once; thread 0 is the caller. A worker
that waits for a job spins for a short time, then sleeps in the operating system, so an idle pool uses no processor
time. Threads wait at a barrier in the same way: while one of them has lost its core, the others do not keep theirs
busy.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
import threading
import weakref
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numba import types

from llamafw_backends.numba_cpu.cpu import MACHINE
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler, jit
from llamafw_backends.numba_cpu.kernel_records import accessor
from llamafw_backends.numba_cpu.simd import atomic_add, atomic_load, atomic_store, call_address, pause

SPINS_PER_POLL_LEVEL = 60  # of `ThreadOptions.poll`: level 50 takes about 50 µs, like the short phases of a step
DEFAULT_POLL_LEVEL = 50
LINE_BYTES = 128  # two cache lines that hold only a word that threads wait for and the number of its sleepers
MAX_THREADS = 256

_FUTEX = {"x86_64": 202, "amd64": 202, "aarch64": 98, "arm64": 98, "riscv64": 98}.get(MACHINE, 0)
_WAIT_PRIVATE, _WAKE_PRIVATE = 128, 129  # futex operations (linux/futex.h)
HAS_FUTEX = sys.platform.startswith("linux") and _FUTEX != 0 and platform.architecture()[0] == "64bit"
_syscall = types.ExternalFunction("syscall", types.int64(*[types.int64] * 7))
_nap = types.ExternalFunction("llamafw_nap", types.int32(types.int32))
_NAP = 1 if sys.platform == "win32" else 1000  # a millisecond, in the unit of `llamafw_nap`

POOL = np.dtype(
    [
        ("arrived", np.int32),  # threads at the barrier
        ("_0", np.uint8, LINE_BYTES - 4),
        ("phase", np.int32),  # counts barriers; the number of its sleepers follows at _SLEEPERS
        ("_1", np.uint8, LINE_BYTES - 4),
        ("job", np.int64),
        ("argument", np.int64),
        ("n_active", np.int64),
        ("stop", np.int64),
        ("spins", np.int64),
        ("_2", np.uint8, LINE_BYTES - 40),
        ("mailboxes", np.uint8, LINE_BYTES * MAX_THREADS),  # an int32 per thread, which changes with each job
    ]
)
_PHASE = POOL.fields["phase"][1] if POOL.fields else 0
_MAILBOXES = POOL.fields["mailboxes"][1] if POOL.fields else 0
_SLEEPERS = 64  # offset of the number of sleeping threads from the word that they wait for
_pool_at = accessor(POOL)
_call_job = call_address(2)


if HAS_FUTEX:

    @jit
    def _sleep(word: int, old: int, tries: int) -> None:
        atomic_add(word + _SLEEPERS, np.int32(1))
        _syscall(_FUTEX, word, _WAIT_PRIVATE, np.int64(old), 0, 0, 0)  # returns at once if the word has changed
        atomic_add(word + _SLEEPERS, np.int32(-1))

    @jit
    def _wake(word: int) -> None:
        if atomic_load(word + _SLEEPERS) != 0:
            _syscall(_FUTEX, word, _WAKE_PRIVATE, 1 << 30, 0, 0, 0)

else:

    @jit
    def _sleep(word: int, old: int, tries: int) -> None:
        _nap(np.int32(0 if tries < 500 else _NAP))  # yield the core; after 500 tries, look once per millisecond

    @jit
    def _wake(word: int) -> None:
        pass

    _library = ctypes.CDLL("kernel32" if sys.platform == "win32" else None)
    _function = _library.Sleep if sys.platform == "win32" else _library.usleep
    llvm.add_symbol("llamafw_nap", ctypes.cast(_function, ctypes.c_void_p).value)


@jit
def _await_change(word: int, old: int, spins: int) -> int:
    """Wait until the int32 at ``word`` differs from ``old``, and return it; sleep after ``spins`` tries."""
    tries = 0
    while True:
        now = atomic_load(word)
        if now != old:
            return now
        if tries < spins:
            pause()
        else:
            _sleep(word, old, tries - spins)
        tries += 1


@jit
def _publish(word: int, value: int) -> None:
    atomic_store(word, value)
    _wake(word)


@jit
def barrier(pool: int, n: int) -> None:
    """Wait until ``n`` threads have arrived.

    Afterwards each sees what the others wrote before.
    """
    if n > 1:
        phase = atomic_load(pool + _PHASE)
        if atomic_add(pool, np.int32(1)) == n - 1:
            atomic_store(pool, np.int32(0))
            _publish(pool + _PHASE, np.int32(phase + 1))
        else:
            _await_change(pool + _PHASE, phase, _pool_at(pool).spins)


@jit
def work_range(n: int, thread: int, n_threads: int) -> tuple[int, int]:
    """Return this thread's part of ``range(n)`` as (first, last + 1)."""
    return n * thread // n_threads, n * (thread + 1) // n_threads


@jit
def run_job(pool: int, job: int, argument: int, n: int) -> int:
    """Run ``job`` on threads 0 … n − 1 and wait for all of them.

    The caller is thread 0.
    """
    p = _pool_at(pool)
    p.job, p.argument, p.n_active = job, argument, n
    for thread in range(1, n):
        mailbox = pool + _MAILBOXES + thread * LINE_BYTES
        _publish(mailbox, np.int32(atomic_load(mailbox) + 1))
    _call_job(job, argument, 0)
    barrier(pool, n)
    return 0


def _run(pool: int, job: int, argument: int, n: int) -> int:
    """Run a job for Python."""
    return run_job(pool, job, argument, n)


def _work(pool: int, thread: int) -> int:
    """Run jobs on a worker until the pool stops."""
    p = _pool_at(pool)
    seen = np.int32(0)
    while True:
        seen = _await_change(pool + _MAILBOXES + thread * LINE_BYTES, seen, p.spins)
        if p.stop != 0:
            return 0
        _call_job(p.job, p.argument, thread)
        barrier(pool, p.n_active)


def _stop(pool: int, n: int) -> int:
    """Wake threads 1 … n − 1 and let them end."""
    p = _pool_at(pool)
    p.stop = 1
    for thread in range(1, n):
        mailbox = pool + _MAILBOXES + thread * LINE_BYTES
        _publish(mailbox, np.int32(atomic_load(mailbox) + 1))
    return 0


class Pool:
    """A pool of ``n_threads - 1`` worker threads, which run until `close` or the end of the interpreter."""

    def __init__(self, n_threads: int, compiler: KernelCompiler) -> None:
        if not 1 <= n_threads <= MAX_THREADS:
            raise ValueError(f"a pool cannot have {n_threads} threads: it must have 1 to {MAX_THREADS}")
        self.n_threads = n_threads

        self._memory = mmap.mmap(-1, POOL.itemsize)  # page-aligned
        view = np.frombuffer(self._memory, np.uint8)
        self.address = int(view.ctypes.data)
        self.set_poll_level(DEFAULT_POLL_LEVEL)

        self._run = compiler("threads.run", 4, _run).ctypes
        work, stop = compiler("threads.work", 2, _work).ctypes, compiler("threads.stop", 2, _stop).ctypes

        threads = [
            threading.Thread(target=work, args=(self.address, i), name=f"llamafw-numba-{i}", daemon=True)
            for i in range(1, n_threads)
        ]
        for thread in threads:
            thread.start()
        self.workers = [thread.native_id or 0 for thread in threads]  # the operating system's ids
        self._finish = weakref.finalize(self, _close, stop, self.address, threads, view)

    def run(self, job: int, argument: int, n_threads: int) -> None:
        """Run the kernel at address ``job`` on the first ``n_threads`` threads and wait for all of them."""
        self._run(self.address, job, argument, min(n_threads, self.n_threads))

    def set_poll_level(self, level: int) -> None:
        """Set how long threads spin before they sleep; see `ThreadOptions.poll`."""
        np.frombuffer(self._memory, POOL, 1)["spins"] = SPINS_PER_POLL_LEVEL * level

    def close(self) -> None:
        """Stop the workers.

        The pool must be idle.
        """
        self._finish()


def _close(stop: Any, address: int, threads: list[threading.Thread], memory: Any) -> None:
    stop(address, len(threads) + 1)
    for thread in threads:
        thread.join()
    del memory  # must outlive the workers
