"""Threads for compiling, with time and stack enough and no more. It knows nothing of grammars."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from llamafw import RequestError, Unavailable

T = TypeVar("T")
SECONDS = 1.0
N_THREADS = 4
STACK = 2**28  # bytes; only what is used takes memory


class Budget:
    """Runs work on threads of its own, so that what takes too long holds up nobody.

    A thread cannot be ended: one whose work is not done in time goes on, and counts as one of `N_THREADS` until it is.
    The stack is deep because llguidance recurses from rule to rule, and an overflow would end the process.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._free = threading.BoundedSemaphore(N_THREADS)

    def run(self, work: Callable[[], T]) -> T:
        """Return what ``work`` returns, or raise what it raises.

        Raises
        ------
        RequestError
            It is not done in time.
        Unavailable
            There is no thread to do it.
        """
        if not self._free.acquire(timeout=self._seconds):
            raise Unavailable("too many grammars are being compiled")
        future: Future[T] = Future()
        _start_with_deep_stack(lambda: self._do(work, future))
        try:
            return future.result(self._seconds)
        except TimeoutError:
            raise RequestError(f"the grammar is not compiled within {self._seconds:g} s") from None

    def _do(self, work: Callable[[], T], future: Future[T]) -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # for who waits
            future.set_exception(error)
        finally:
            self._free.release()


_lock = threading.Lock()


def _start_with_deep_stack(run: Callable[[], None]) -> None:
    with _lock:  # the size is the process's
        usual = threading.stack_size(STACK)
        try:
            threading.Thread(target=run, name="grammar", daemon=True).start()
        finally:
            threading.stack_size(usual)
