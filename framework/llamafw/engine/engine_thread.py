"""The thread of an engine: receives tasks and jobs, runs the steps of its worker, and ends what is left.

Independent of the event loop that the tasks come from: they send their results through outboxes.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from llamafw.engine.disk_cache import DiskCache
from llamafw.engine.outbox import Outboxes
from llamafw.engine.speculation import Speculation
from llamafw.engine.task import Task
from llamafw.engine.unloadable_backend import UnloadableBackend
from llamafw.engine.worker import SlotJob, Worker
from llamafw.errors import FAULTS, GenerationError, RequestError, Unavailable
from llamafw.interfaces import Backend

log = logging.getLogger(__name__)

_RELIEVE_SECONDS = 2.0  # how often an idle engine asks whether the prompt cache must give way
_STORE_SECONDS = 10.0  # how long states are written to the disk when the engine stops

Item = Task | SlotJob | Callable[[], None] | None
"""What the thread receives: a new or cancelled task, a job, a function to call, or None: the thread must end."""


class EngineThread:
    """The thread, and the inbox through which it receives its work.

    Parameters
    ----------
    worker : Worker
        Runs the steps, and is closed when the thread ends. Nothing else uses it or its scheduler from now on.
    backend : Backend
        The worker's backend.
    speculation : Speculation
        The worker's drafters.
    outboxes : Outboxes
        Flushed after every step.
    disk : DiskCache or None
        Receives what is in the caches when the engine stops or sleeps.
    inbox : queue
        Where the thread's work arrives.
    on_failure : callable
        Called on the thread if a step fails, and all further requests with it.
    sleep_after : float, optional
        Unload the backend, an `UnloadableBackend`, and the models of drafters, when nothing has arrived for this many
        seconds; None: never.
    """

    def __init__(
        self,
        worker: Worker,
        backend: Backend,
        speculation: Speculation,
        outboxes: Outboxes,
        disk: DiskCache | None,
        inbox: queue.SimpleQueue[Item],
        *,
        on_failure: Callable[[], None],
        sleep_after: float | None = None,
    ) -> None:
        self._worker, self._backend, self._speculation = worker, backend, speculation
        self._outboxes, self._disk, self._inbox = outboxes, disk, inbox
        self.refusal: Callable[[], RequestError] | None = None  # makes the error that new requests get
        self._on_failure, self._failed, self._closed = on_failure, False, False
        self._sleep_after, self.sleeping = sleep_after, False
        self._thread = threading.Thread(target=self._run, name="llamafw-engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, item: Task | SlotJob) -> None:
        """Pass a new or cancelled task, or a job, to the thread."""
        self._inbox.put(item)

    def raise_if_refusing(self) -> None:
        """Raise the error that new requests get, if they are refused."""
        if self.refusal:
            raise self.refusal()

    def raise_if_closed(self) -> None:
        """Raise an error if the thread may have missed the item that was passed to it last.

        Must be called after `put`. The thread first sets ``_closed``, then empties the inbox: if it misses the item,
        this raises.
        """
        if self._closed:
            self.raise_if_refusing()

    def refuse(self) -> None:
        """Refuse new requests, because the server is shutting down."""
        self.refusal = self.refusal or _shutting_down

    def stop(self, max_seconds: float) -> bool:
        """End everything that is left, and the thread; return whether it has ended within ``max_seconds``."""
        self._inbox.put(None)
        self._thread.join(max_seconds)
        return not self._thread.is_alive()

    # --- on the thread

    def _run(self) -> None:
        error: Callable[[], RequestError] = _shutting_down
        try:
            while self._receive():
                self._worker.step()
                self._outboxes.flush()
        except BaseException:
            log.critical("the engine has failed; the server cannot answer requests any more", exc_info=True)
            self._failed = True
            self._on_failure()
            error = _engine_failed
        self._close(error)

    def _receive(self) -> bool:
        """Receive what has arrived, and wait if there is nothing else to do; return False to stop the engine."""
        wait = self._worker.max_wait
        can_sleep = wait is None and self._sleep_after is not None and not self.sleeping
        if can_sleep:
            wait = self._sleep_after
        while True:
            try:
                item = self._get(wait)
            except queue.Empty:
                if can_sleep:
                    self._sleep()
                return True
            wait, can_sleep = 0, False
            if item is None:
                return False
            if callable(item):
                item()
            elif self.sleeping and not item.cancelled and (error := self._wake()) is not None:
                _end(item, error)
                self._outboxes.flush()
            elif isinstance(item, SlotJob):
                self._worker.jobs.append(item)
            elif not item.cancelled:
                self._worker.scheduler.add(item)
            elif not item.done:
                item.done = True
                self._worker.drop(item)

    def _get(self, wait: float | None) -> Item:
        """Return the next item; raise queue.Empty if none arrives for ``wait`` seconds.

        Meanwhile, the prompt cache gives way if memory is scarce.
        """
        while self._worker.cache.n_bytes and (wait is None or wait > _RELIEVE_SECONDS):
            with suppress(queue.Empty):
                return self._inbox.get(timeout=_RELIEVE_SECONDS)
            self._worker.cache.relieve()
            wait = None if wait is None else wait - _RELIEVE_SECONDS
        return self._inbox.get(wait != 0, wait)

    def _sleep(self) -> None:
        """Store the caches on the disk, and unload the models; stay awake if something arrives meanwhile."""
        if self._disk is not None:
            self._worker.caches.store(self._inbox.empty)
            if not self._inbox.empty():
                return
        self._unload()
        self._worker.caches.forget()
        self.sleeping = True
        log.info("asleep after %g s without requests: the model is out of memory", self._sleep_after)

    def _unload(self) -> None:
        """Unload the models of drafters, then the backend, which may share weights with them."""
        self._speculation.unload()
        cast("UnloadableBackend", self._backend).unload()

    def _wake(self) -> RequestError | None:
        """Load the backend and the models of drafters again; return the error for the client if that fails."""
        start, subject = time.monotonic(), "the model"
        try:
            cast("UnloadableBackend", self._backend).load()
            subject = "the model for drafts"
            self._speculation.load()
        except FAULTS as cause:
            log.exception("%s cannot be loaded again", subject)
            self._unload()  # a server that says that it sleeps does not use memory
            error = Unavailable(f"{subject} cannot be loaded again")
            error.__cause__ = cause
            error.logged = True
            return error
        self.sleeping = False
        log.info("awake: the model was loaded in %.1f s", time.monotonic() - start)
        return None

    def _close(self, error: Callable[[], RequestError]) -> None:
        """End all tasks and jobs with ``error``, store the caches on the disk, and close the backend."""
        self.refusal = self.refusal or error
        self._closed = True
        scheduler = self._worker.scheduler
        unfinished: list[Item] = [*scheduler.running, *scheduler.waiting, *self._worker.jobs]
        while not self._inbox.empty():
            unfinished.append(self._inbox.get())
        for item in unfinished:
            if item is not None and not callable(item):
                _end(item, error())
        self._outboxes.flush()
        if self._disk is not None:
            if not self._failed:  # otherwise the caches are in an unknown state
                end = time.monotonic() + _STORE_SECONDS
                n = self._worker.caches.store(lambda: time.monotonic() < end)
                log.info("prompt cache: states written to %s: %d", self._disk.folder, n)
            self._disk.close()
        self._worker.close()


def _end(item: Task | SlotJob, error: RequestError) -> None:
    """Send an error to the client of a task or a job."""
    if isinstance(item, SlotJob):
        item.send(error)
    else:
        item.fail(error)


def _shutting_down() -> RequestError:
    return Unavailable("the server is shutting down")


def _engine_failed() -> RequestError:
    return GenerationError("the engine has failed; restart the server")
