"""Passes results from the engine thread to an event loop with few wake-ups."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any


class Outbox:
    """Results for the mailboxes of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._ready: deque[tuple[asyncio.Queue[Any], Any]] = deque()
        self._woken = False

    def put(self, mailbox: asyncio.Queue[Any], item: Any) -> None:
        """Add ``item`` for ``mailbox``, to be delivered after the next `flush`.

        Called on the engine thread.
        """
        self._ready.append((mailbox, item))

    def flush(self) -> None:
        """Wake the loop if there are items and it has not been woken yet.

        Called on the engine thread.
        """
        if self._ready and not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # Reset the flag before reading the items: an item added in between only causes one needless wake-up.
        self._woken = False
        while self._ready:
            mailbox, item = self._ready.popleft()
            mailbox.put_nowait(item)


class Outboxes:
    """One outbox per event loop: that of the server, and that of `preload`."""

    def __init__(self) -> None:
        self._all: list[Outbox] = []

    def sender(self, mailbox: asyncio.Queue[Any]) -> Callable[[Any], None]:
        """Return a function that puts an item into a mailbox of the running event loop."""
        return partial(self._of_running_loop().put, mailbox)

    def flush(self) -> None:
        """Deliver what was put into all outboxes; called on the engine thread."""
        for outbox in self._all:
            outbox.flush()

    def _of_running_loop(self) -> Outbox:
        loop = asyncio.get_running_loop()
        for outbox in self._all:
            if outbox.loop is loop:
                return outbox
        outbox = Outbox(loop)
        self._all = [*(outbox for outbox in self._all if not outbox.loop.is_closed()), outbox]
        return outbox


async def receive_or_raise(mailbox: asyncio.Queue[Any]) -> Any:
    """Return the next item of a mailbox; raise it if it is an exception."""
    item = await mailbox.get()
    if isinstance(item, Exception):
        raise item
    return item
