"""Static files around the API: those of ``--path`` first, then our own. They need no key. It knows no operations."""

from __future__ import annotations

import mimetypes
import os
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from llamafw import App, SettingsError, Unavailable

STATIC = Path(__file__).parent / "static"
OURS = {"/": "index.html", "/completion.js": "completion.js"}
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Of our page: nothing is loaded from elsewhere, and no other site shows it in a frame."""


class Files:
    """An ASGI application around the API's: files by GET and HEAD, everything else is passed on.

    While the model is loading, ``/`` and ``*.html`` are a page that says so, with 503.
    """

    def __init__(self, asgi: ASGIApp, app: App) -> None:
        self.asgi, self.app = asgi, app
        self.folder = _folder(app.settings.path) if app.settings.path else None
        self.ours = OURS if app.settings.webui else {}
        self.built_in = StaticFiles(directory=STATIC)
        for suffix in (".js", ".mjs"):  # in the registry of Windows they may be anything, and then no browser runs them
            mimetypes.add_type("text/javascript", suffix)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a file, or let the API answer."""
        response = await self.respond(scope) if scope["type"] == "http" else None
        await (response or self.asgi)(scope, receive, send)

    async def respond(self, scope: Scope) -> Response | None:
        """Return the response; None: it is not about a file."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if scope["method"] not in ("GET", "HEAD"):
            if path in self.ours:
                raise HTTPException(405)
            return None
        if self._loading() and (path == "/" or path.endswith(".html")):
            return HTMLResponse((STATIC / "loading.html").read_text("utf-8"), 503, {"Retry-After": "1"})
        if self.folder is not None and (found := await _file(self.folder, path, scope)) is not None:
            return found
        if path not in self.ours or (self._loading() and path != "/"):
            return None
        response = await self.built_in.get_response(self.ours[path], scope)
        response.headers["Cache-Control"] = "no-cache"
        if path == "/":
            response.headers["Content-Security-Policy"] = POLICY
        return response

    def _loading(self) -> bool:
        try:
            return not self.app.loaded
        except Unavailable:
            return True


async def _file(folder: StaticFiles, path: str, scope: Scope) -> Response | None:
    """Return a file of ``--path``, with ETag and Last-Modified; None if there is none of this name within it."""
    try:
        return await folder.get_response(_name(path), scope)
    except (HTTPException, OSError):  # not there, not readable, or outside of the folder
        return None


def _name(path: str) -> str:
    """Return the path of a URL as one in the file system, relative and without ``..`` where that can be resolved."""
    return os.path.normpath(os.path.join(*(path + "index.html" if path.endswith("/") else path).split("/")))


def _folder(path: str) -> StaticFiles:
    if not Path(path).is_dir():
        raise SettingsError(f"--path: there is no folder {path}")
    return StaticFiles(directory=Path(path))
