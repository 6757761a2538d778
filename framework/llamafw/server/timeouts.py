"""The end of patience with a client that neither reads its answer nor goes away. It knows nothing of operations."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class WriteTimeout:
    """Takes a client for gone that has taken nothing of its answer for ``seconds``: it would hold its slot for ever."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app, self.seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; ClientDisconnect comes from ``send``."""

        async def timed(message: Message) -> None:
            try:
                async with asyncio.timeout(self.seconds):
                    await send(message)
            except TimeoutError:
                raise ClientDisconnect from None

        await self.app(scope, receive, timed if scope["type"] == "http" else send)
