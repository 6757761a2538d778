"""Serve everything below the path of ``--api-prefix``."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class PrefixMiddleware:
    """Sets ``root_path`` (ASGI's name for the prefix) of requests below the prefix; others are 404."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self.app, self.prefix = app, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or raise HTTPException."""
        if scope["type"] == "http":
            if scope["path"] == self.prefix and scope["method"] in ("GET", "HEAD"):
                await RedirectResponse(f"{self.prefix}/")(scope, receive, send)  # the page has relative links
                return
            if not scope["path"].startswith(f"{self.prefix}/"):
                raise HTTPException(404)
            scope = {**scope, "root_path": self.prefix}
        await self.app(scope, receive, send)
