"""Serve a page at ``/dashboard`` that shows what every slot is doing.

The page is static files and needs no key. Its script calls the API like any other client.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llamafw import App, hookimpl

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

requires_api = ">=1.0,<2"
PREFIX = "/dashboard"
POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


class Pages:
    """An ASGI application that serves files below `PREFIX` and passes on all other requests."""

    def __init__(self, asgi: ASGIApp) -> None:
        from starlette.staticfiles import StaticFiles

        self.asgi, self.files = asgi, StaticFiles(directory=Path(__file__).parent / "static", html=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a file, or pass the request on to the server."""
        path = scope["path"].removeprefix(scope.get("root_path", "")) if scope["type"] == "http" else ""
        if path != PREFIX and not path.startswith(f"{PREFIX}/"):
            await self.asgi(scope, receive, send)
            return

        name = path.removeprefix(PREFIX).strip("/") or "index.html"
        response = await self.files.get_response(name, scope)
        response.headers["Content-Security-Policy"] = POLICY
        await response(scope, receive, send)


@hookimpl
def wrap_asgi(asgi: ASGIApp, app: App) -> ASGIApp:
    """Wrap the server."""
    return Pages(asgi)
