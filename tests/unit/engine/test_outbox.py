"""Delivery of results from the engine thread to the event loop."""

from __future__ import annotations

import asyncio
from typing import Any

from llamafw.engine.outbox import Outbox


class Loop:
    """An event loop that counts how often it is woken."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def call_soon_threadsafe(self, call: Any) -> None:
        self.calls.append(call)


async def test_event_loop_is_woken_once_for_several_items() -> None:
    loop: Any = Loop()
    outbox, mailbox = Outbox(loop), asyncio.Queue[int]()
    outbox.flush()
    assert not loop.calls  # there is no item
    for i in range(3):
        outbox.put(mailbox, i)
        outbox.flush()
    assert len(loop.calls) == 1
    loop.calls.pop()()
    assert [mailbox.get_nowait() for _ in range(3)] == [0, 1, 2]
    outbox.put(mailbox, 3)
    outbox.flush()
    assert len(loop.calls) == 1  # one more wake-up for later items
