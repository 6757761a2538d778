"""Run a response in the background, and let clients follow its events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing

from llamafw import Problem, RequestError
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.responses.builder import FINISHED, ResponseBuilder

log = logging.getLogger("llamafw.responses")


class BackgroundRun:
    """One response that runs without a client.

    Parameters
    ----------
    builder : ResponseBuilder
        Builds the response.
    events : async generator
        Yields its events, except the first ones, which say that the response waits.
    ended : callable
        Called when the response has ended.
    """

    def __init__(self, builder: ResponseBuilder, events: AsyncGenerator[JSON, None], ended: Callable[[], None]) -> None:
        self._builder, self._source, self._ended = builder, events, ended
        self._final: JSON | None = None
        self._changed = asyncio.Event()  # replaced by a new one at every change
        self.events: list[JSON] = list(builder.enqueue())
        self._task = asyncio.create_task(self._run())

    @property
    def response(self) -> JSON:
        """The response as it is now."""
        return self._builder.response if self._final is None else self._final

    @property
    def is_running(self) -> bool:
        """Whether the response will still change."""
        return self._final is None

    async def cancel(self) -> None:
        """End the response early, and wait until it has ended."""
        self._task.cancel()
        await asyncio.wait([self._task])
        if self.is_running:  # it was cancelled before it began
            await self._source.aclose()
            self._end(self._builder.cancel())

    async def follow(self, first: int = 0) -> AsyncGenerator[JSON, None]:
        """Yield the events from the number ``first`` on, the past ones at once."""
        i = first
        while True:
            while i < len(self.events):
                yield self.events[i]
                i += 1
            if not self.is_running:
                return
            await self._changed.wait()

    async def _run(self) -> None:
        end: Iterable[JSON] = ()
        try:
            async with aclosing(self._source) as events:
                async for event in events:
                    self._publish([event])
        except asyncio.CancelledError:
            end = self._builder.cancel()
        except RequestError as error:
            end = self._builder.fail(Problem(error.status, error.message, error.type, error.param))
        except Exception:
            log.exception("response %s failed", self._builder.response["id"])
            end = self._builder.fail(Problem(500, "internal server error", "server_error"))
        self._end(end)

    def _end(self, events: Iterable[JSON]) -> None:
        if self._builder.status not in FINISHED:
            self.events += events
        self._final = self._builder.response
        self._publish(())
        self._ended()

    def _publish(self, events: Iterable[JSON]) -> None:
        self.events += events
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
