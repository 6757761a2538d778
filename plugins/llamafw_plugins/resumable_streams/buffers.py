"""Keep the bytes of streams, for clients that come back.

Independent of ASGI. Everything runs on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable

from llamafw import User

MAX_BYTES = 4 << 20
"""Bytes that are kept of each stream; its first ones are dropped."""

MAX_STREAMS = 64
"""Streams that are kept. The oldest one that has ended makes room for a new one."""

KEEP_SECONDS = 300.0
"""How long a stream is kept after its end, and how long it goes on without a reader."""


class StreamBuffer:
    """The last bytes of one stream.

    Parameters
    ----------
    user : str
        Name of the user; only this user can read it.
    id : str
        The id of the conversation.
    cancel : callable
        Ends the generation.
    """

    def __init__(self, user: str, id: str, cancel: Callable[[], None]) -> None:
        self.user, self.id, self.cancel = user, id, cancel
        self.n_dropped = 0  # bytes that are no longer kept
        self.n_readers = 0
        self.done = False
        self.started_at, self.completed_at = int(time.time()), 0  # seconds since 1970
        self.timer: asyncio.TimerHandle | None = None  # removes the buffer
        self.idle_since = asyncio.get_running_loop().time()  # when it ended, or its last reader left
        self._data = bytearray()
        self._changed = asyncio.Event()

    @property
    def n_total(self) -> int:
        """Number of bytes so far, including those that are no longer kept."""
        return self.n_dropped + len(self._data)

    def append(self, data: bytes) -> None:
        """Add the next bytes of the stream."""
        self._data += data
        if (n := len(self._data) - MAX_BYTES) > 0:
            del self._data[:n]
            self.n_dropped += n
        self._wake_readers()

    def finish(self) -> None:
        """Record that the stream has ended."""
        if not self.done:
            self.done, self.completed_at = True, int(time.time())
            self.idle_since = asyncio.get_running_loop().time()
            self._wake_readers()

    def _wake_readers(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def read(self, start: int = 0) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from ``start`` on, until the stream has ended.

        A reader that is too slow gets no more bytes.
        """
        self.n_readers += 1
        try:
            while start >= self.n_dropped:
                data = bytes(self._data[start - self.n_dropped :])
                changed = self._changed
                if data:
                    start += len(data)
                    yield data
                elif self.done:
                    return
                else:
                    await changed.wait()
        finally:
            self.n_readers -= 1
            self.idle_since = asyncio.get_running_loop().time()


class StreamBuffers:
    """All streams that are kept, by user and conversation."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, str], StreamBuffer] = {}

    def get(self, user: str, id: str) -> StreamBuffer | None:
        """Return a stream of a user, or None."""
        return self._buffers.get((user, id))

    @property
    def is_full(self) -> bool:
        """Whether there are `MAX_STREAMS`, and none of them has ended."""
        return len(self._buffers) >= MAX_STREAMS and not any(buffer.done for buffer in self._buffers.values())

    def add(self, buffer: StreamBuffer) -> None:
        """Keep a stream; the former one of this conversation ends."""
        former = self.get(buffer.user, buffer.id)
        if former is None and len(self._buffers) >= MAX_STREAMS:
            former = next((other for other in self._buffers.values() if other.done), None)
        if former is not None:
            self.remove(former)
        self._buffers[buffer.user, buffer.id] = buffer
        self._remove_later(buffer, KEEP_SECONDS)

    def remove(self, buffer: StreamBuffer) -> None:
        """Forget a stream and end its generation."""
        if self._buffers.get((buffer.user, buffer.id)) is buffer:
            del self._buffers[buffer.user, buffer.id]
        if buffer.timer is not None:
            buffer.timer.cancel()
        buffer.cancel()
        buffer.finish()

    def stop_all(self) -> None:
        """Forget all streams."""
        for buffer in list(self._buffers.values()):
            self.remove(buffer)

    def _remove_later(self, buffer: StreamBuffer, seconds: float) -> None:
        buffer.timer = asyncio.get_running_loop().call_later(seconds, self._remove_if_unused, buffer)

    def _remove_if_unused(self, buffer: StreamBuffer) -> None:
        left = KEEP_SECONDS - (asyncio.get_running_loop().time() - buffer.idle_since)
        if buffer.n_readers or left > 0:
            self._remove_later(buffer, left if left > 0 else KEEP_SECONDS)
        else:
            self.remove(buffer)


def user_name(user: User | None) -> str:
    """Return the name under which a user's streams are kept; "" for a server that does not know its users."""
    return "" if user is None else user.name
