"""End a response if its client stops reading without closing the connection."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class WriteTimeoutMiddleware:
    """Raises ClientDisconnect if a client reads nothing of its response for ``seconds``.

    Otherwise such a client would never give up its slot.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app, self.seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a ``send`` that times out."""

        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(self.seconds):
                    await send(message)
            except TimeoutError:
                raise ClientDisconnect from None

        await self.app(scope, receive, send_in_time if scope["type"] == "http" else send)
