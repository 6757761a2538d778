"""Carry answers from the engine thread to an event loop, with few wake-ups. It knows nothing of what it carries."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any


class Outbox:
    """What the engine thread has to say to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._ready: deque[tuple[asyncio.Queue[Any], Any]] = deque()
        self._woken = False

    def put(self, mailbox: asyncio.Queue[Any], item: Any) -> None:
        """Add ``item`` for ``mailbox``; it is delivered after the next `flush`. On the engine thread."""
        self._ready.append((mailbox, item))

    def flush(self) -> None:
        """Wake the loop if there is something for it and it has not been woken yet. On the engine thread."""
        if self._ready and not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop is closed: nobody is listening any more
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # First the flag, then the items: what is put in between wakes the loop once more, for nothing at worst.
        self._woken = False
        while self._ready:
            mailbox, item = self._ready.popleft()
            mailbox.put_nowait(item)
