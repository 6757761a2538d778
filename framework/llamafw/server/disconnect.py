"""Notice that a client has gone while its answer is being made. It knows nothing of what is made."""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.types import Receive


class Disconnect:
    """An async context whose body is cancelled when the client goes away; `gone` tells afterwards.

    The request's body must have been read. Cancellation from elsewhere passes through.
    """

    def __init__(self, receive: Receive) -> None:
        self.gone = False
        self._receive = receive

    async def __aenter__(self) -> Disconnect:
        task = asyncio.current_task()
        assert task is not None  # this is a coroutine
        self._task = task
        self._watcher: asyncio.Task[None] | None = None
        self._start = asyncio.get_running_loop().call_soon(self._begin)  # most bodies end first, and need no watcher
        return self

    def _begin(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass  # what is left of a body that nobody asked for
        self.gone = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._start.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if not self.gone:
            return False
        if kind is None:  # the body ended by itself before our cancellation arrived: take it here
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                kind = asyncio.CancelledError
        cancelled_elsewhere = self._task.uncancel() > 0
        return not cancelled_elsewhere and kind is asyncio.CancelledError
