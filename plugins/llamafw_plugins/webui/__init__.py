"""The page at ``/``, ``/completion.js`` for pages of one's own, and the files of ``--path``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamafw import App, hookimpl

if TYPE_CHECKING:
    from starlette.types import ASGIApp


@hookimpl
def wrap_asgi(asgi: ASGIApp, app: App) -> ASGIApp | None:
    from llamafw_plugins.webui.files import Files

    return Files(asgi, app) if app.settings.webui or app.settings.path else None
