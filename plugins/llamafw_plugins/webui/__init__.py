"""The web page at ``/``, the script ``/completion.js`` for other pages, and the static files of ``--path``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamafw import App, hookimpl

if TYPE_CHECKING:
    from starlette.types import ASGIApp


@hookimpl
def wrap_asgi(asgi: ASGIApp, app: App) -> ASGIApp | None:
    from llamafw_plugins.webui.files import StaticFilesMiddleware

    return StaticFilesMiddleware(asgi, app) if app.settings.webui or app.settings.path else None
