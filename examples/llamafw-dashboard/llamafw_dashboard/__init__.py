"""A page at ``/dashboard`` that shows what every slot is doing: static files around the API, which need no key.

What the page shows it asks of the API, as any client would.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llamafw import App, hookimpl

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

requires_api = ">=1.0,<2"
PLACE = "/dashboard"
POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


class Pages:
    """An ASGI application around the server's: what is below `PLACE` are files."""

    def __init__(self, asgi: ASGIApp) -> None:
        from starlette.staticfiles import StaticFiles

        self.asgi, self.files = asgi, StaticFiles(directory=Path(__file__).parent / "static", html=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a file, or let the server answer."""
        path = scope["path"].removeprefix(scope.get("root_path", "")) if scope["type"] == "http" else ""
        if path != PLACE and not path.startswith(f"{PLACE}/"):
            await self.asgi(scope, receive, send)
            return
        name = path.removeprefix(PLACE).strip("/") or "index.html"
        response = await self.files.get_response(name, scope)
        response.headers["Content-Security-Policy"] = POLICY
        await response(scope, receive, send)


@hookimpl
def wrap_asgi(asgi: ASGIApp, app: App) -> ASGIApp:
    """Stand around the server."""
    return Pages(asgi)
