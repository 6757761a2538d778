"""The way from the engine thread to the event loop."""

from __future__ import annotations

import asyncio
from typing import Any

from llamafw.engine.outbox import Outbox


class Loop:
    """Counts how often it is woken."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def call_soon_threadsafe(self, call: Any) -> None:
        self.calls.append(call)


async def test_a_loop_is_woken_once_for_all_that_is_there() -> None:
    loop: Any = Loop()
    outbox, mailbox = Outbox(loop), asyncio.Queue[int]()
    outbox.flush()
    assert not loop.calls  # nothing to say
    for i in range(3):
        outbox.put(mailbox, i)
        outbox.flush()
    assert len(loop.calls) == 1
    loop.calls.pop()()
    assert [mailbox.get_nowait() for _ in range(3)] == [0, 1, 2]
    outbox.put(mailbox, 3)
    outbox.flush()
    assert len(loop.calls) == 1  # and again for what comes later
