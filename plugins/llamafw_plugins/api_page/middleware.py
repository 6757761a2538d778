"""Answer requests for the page at ``/docs/`` and its files.

They need no API key, and load nothing from other hosts.
"""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from llamafw import App, Settings

FOLDER = Path(__file__).parent / "static"
PAGE = "/docs/"
FILES = {f"{PAGE}{name}": FOLDER / name for name in ("page.css", "page.js")}

HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class ApiPageMiddleware:
    """Answers GET and HEAD requests for the page; passes all other requests on to the API."""

    def __init__(self, asgi: ASGIApp, app: App) -> None:
        self._asgi, self._app = asgi, app
        self._page = ""
        self._rendered_from = b""  # the document that the page shows; the model's defaults change it
        mimetypes.add_type("text/javascript", ".js")  # the Windows registry may have another type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the page or a file, or pass the request on."""
        response = await self._respond(scope) if scope["type"] == "http" else None
        await (response or self._asgi)(scope, receive, send)

    async def _respond(self, scope: Scope) -> Response | None:
        """Return the response; None if the request is not for the page."""
        prefix = scope.get("root_path", "")
        path = scope["path"].removeprefix(prefix)
        if path not in (PAGE, PAGE.rstrip("/"), *FILES):
            return None
        if scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(405)

        if path == PAGE:
            return HTMLResponse(await self._html(), headers=HEADERS)
        if path in FILES:
            return FileResponse(FILES[path], headers=HEADERS)
        return RedirectResponse("docs/")  # relative, because a proxy may add a prefix

    async def _html(self) -> str:
        document_json = self._app.document_json
        if self._rendered_from is not document_json:
            self._page = await asyncio.to_thread(_render, self._app.document, self._app.settings)
            self._rendered_from = document_json
        return self._page


def _render(document: Mapping[str, Any], settings: Settings) -> str:
    from llamafw_plugins.api_page.page import render_page  # a slow import

    return render_page(document, settings)
