"""Compiles grammars on threads with a deep stack and a time limit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from llamafw import RequestError, Unavailable

T = TypeVar("T")
TIMEOUT = 1.0  # seconds
MAX_THREADS = 4
STACK_SIZE = 2**28  # bytes of address space; only the part that is used takes memory


class CompileThreads:
    """Runs each task on a thread of its own and stops waiting for it after a timeout.

    A thread cannot be stopped: after a timeout it runs on, and counts against `MAX_THREADS` until it ends. The stack is
    deep because llguidance recurses from rule to rule, and a stack overflow would end the process.

    Parameters
    ----------
    timeout : float
        Seconds to wait for a free thread, and then for the task.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self._timeout = timeout
        self._free = threading.BoundedSemaphore(MAX_THREADS)

    def run(self, task: Callable[[], T]) -> T:
        """Return the result of ``task()``, or raise its exception.

        Raises
        ------
        RequestError
            The task did not end in time.
        Unavailable
            No thread became free in time.
        """
        if not self._free.acquire(timeout=self._timeout):
            raise Unavailable("too many grammars are being compiled; try again later")
        future: Future[T] = Future()
        _start_with_deep_stack(lambda: self._run(task, future))
        try:
            return future.result(self._timeout)
        except TimeoutError:
            raise RequestError(f"the grammar is too complex to be compiled within {self._timeout:g} s") from None

    def _run(self, task: Callable[[], T], future: Future[T]) -> None:
        try:
            future.set_result(task())
        except BaseException as error:  # raised again by the thread that waits
            future.set_exception(error)
        finally:
            self._free.release()


_lock = threading.Lock()


def _start_with_deep_stack(target: Callable[[], None]) -> None:
    with _lock:  # threading.stack_size() is a setting of the whole process
        previous = threading.stack_size(STACK_SIZE)
        try:
            threading.Thread(target=target, name="grammar", daemon=True).start()
        finally:
            threading.stack_size(previous)
