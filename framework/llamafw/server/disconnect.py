"""Cancel the work for a request when its client disconnects."""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.types import Receive


class CancelOnDisconnect:
    """Async context manager that cancels its block if the client disconnects.

    Afterwards, `is_gone` says whether the client has disconnected. The body of the request must have been read before.
    Cancellation from elsewhere passes through.
    """

    def __init__(self, receive: Receive) -> None:
        self.is_gone = False
        self._receive = receive

    async def __aenter__(self) -> CancelOnDisconnect:
        task = asyncio.current_task()
        assert task is not None  # this is a coroutine
        self._task = task
        self._watcher: asyncio.Task[None] | None = None
        # The watcher is started later: most blocks end before the loop's next iteration and need none.
        self._start = asyncio.get_running_loop().call_soon(self._start_watcher)
        return self

    def _start_watcher(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass  # the rest of a body that the endpoint does not read
        self.is_gone = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._start.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if not self.is_gone:
            return False

        if kind is None:  # the block ended before our cancellation was delivered: let it be delivered here
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                kind = asyncio.CancelledError
        is_cancelled_elsewhere = self._task.uncancel() > 0
        return not is_cancelled_elsewhere and kind is asyncio.CancelledError
