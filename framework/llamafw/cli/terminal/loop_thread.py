"""Run coroutines on a thread of their own, so that the main thread can draw, and can be interrupted."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.08
"""How often the main thread wakes up while it waits. Waiting without a limit cannot be interrupted on Windows."""


class LoopThread:
    """An event loop on a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llamafw-client", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return the result of a coroutine; an exception of the main thread, such as Ctrl-C, cancels it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            while True:
                try:
                    return future.result(POLL_SECONDS)
                except TimeoutError:
                    if future.done():
                        raise
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncIterator[T]) -> Generator[T | None, None, None]:
        """Yield items as they come, and None if there is none for `POLL_SECONDS`.

        Closing the iterator cancels what ``items`` is doing.
        """
        received: queue.SimpleQueue[T | Future[None]] = queue.SimpleQueue()

        async def read() -> None:
            async for item in items:
                received.put(item)

        future = asyncio.run_coroutine_threadsafe(read(), self._loop)
        future.add_done_callback(received.put)
        try:
            while True:
                try:
                    item = received.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    yield None
                    continue
                if isinstance(item, Future):
                    item.result()
                    return
                yield item
        finally:
            future.cancel()

    def close(self) -> None:
        """Stop the loop."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
