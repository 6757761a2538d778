"""Serve static files before the API: first files of ``--path``, then the built-in files.

They need no API key.
"""

from __future__ import annotations

import base64
import hashlib
import mimetypes
import os
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from llamafw import App, SettingsError, Unavailable

STATIC_FOLDER = Path(__file__).parent / "static"
PAGE_FOLDER = STATIC_FOLDER / "page"  # written by `make webui`
BUILT_IN_FILES = {
    "/": "page/index.html",
    "/completion.js": "completion.js",
    **{
        f"/{name}": f"page/{name}"
        for name in sorted(
            path.relative_to(PAGE_FOLDER).as_posix() for path in (PAGE_FOLDER / "webui").rglob("*") if path.is_file()
        )
    },
}
"""The files by their URL paths."""

FORBIDDEN = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; connect-src 'self'; "
    f"img-src 'self' data: blob:; {FORBIDDEN}"
)
"""Policy of the built-in page and its workers: they load nothing from other sites, and no other site can show the page
in a frame.
"""

SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of all built-in files."""

CONTENT_TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".woff2": "font/woff2",
    ".bcmap": "application/octet-stream",
}
"""Types that the Windows registry may change, so that browsers would refuse the files, or that it may not know."""


class StaticFilesMiddleware:
    """Answers GET and HEAD requests for files; passes all other requests on to the API.

    While the model is loading, requests for ``/`` and ``*.html`` get a 503 with a page that says so.
    """

    def __init__(self, asgi: ASGIApp, app: App) -> None:
        self.asgi, self.app = asgi, app
        self.user_files = _open_folder(app.settings.path) if app.settings.path else None
        self.built_in_paths = BUILT_IN_FILES if app.settings.webui else {}
        self.built_in_files = StaticFiles(directory=STATIC_FOLDER)
        for suffix, content_type in CONTENT_TYPES.items():
            mimetypes.add_type(content_type, suffix)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a file, or pass the request on."""
        response = await self.respond(scope) if scope["type"] == "http" else None
        await (response or self.asgi)(scope, receive, send)

    async def respond(self, scope: Scope) -> Response | None:
        """Return the response; None if the request is not for a file."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if scope["method"] not in ("GET", "HEAD"):
            is_operation = scope["method"].lower() in self.app.document["paths"].get(path, {})
            if path in self.built_in_paths and not is_operation:
                raise HTTPException(405)
            return None

        if self._is_loading() and (path == "/" or path.endswith(".html")):
            return _loading_page()

        if self.user_files is not None and (response := await _user_file(self.user_files, path, scope)) is not None:
            return response

        if path not in self.built_in_paths or (self._is_loading() and path != "/"):
            return None
        response = await self.built_in_files.get_response(self.built_in_paths[path], scope)
        response.headers.update({"Cache-Control": "no-cache", **SECURITY_HEADERS})
        return response

    def _is_loading(self) -> bool:
        try:
            return not self.app.loaded
        except Unavailable:
            return True


def _loading_page() -> Response:
    """Return the page that says that the model is loading; its policy allows only its own style."""
    page = (STATIC_FOLDER / "loading.html").read_text("utf-8")
    style = page.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; {FORBIDDEN}"
    headers = {"Retry-After": "1", **SECURITY_HEADERS, "Content-Security-Policy": policy}
    return HTMLResponse(page, 503, headers)


async def _user_file(folder: StaticFiles, path: str, scope: Scope) -> Response | None:
    """Return a file of ``--path``, with ETag and Last-Modified; None if the folder has no such file."""
    try:
        return await folder.get_response(_file_path(path), scope)
    except (HTTPException, OSError):  # it does not exist, is not readable, or is outside of the folder
        return None


def _file_path(path: str) -> str:
    """Return the relative file path for a URL path.

    `StaticFiles` refuses a path that still begins with ``..``.
    """
    return os.path.normpath(os.path.join(*(path + "index.html" if path.endswith("/") else path).split("/")))


def _open_folder(path: str) -> StaticFiles:
    if not Path(path).is_dir():
        raise SettingsError(f"--path: the folder {path} does not exist")
    return StaticFiles(directory=Path(path))
