"""The page at ``/docs``, which describes every operation and can send requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamafw import App, hookimpl

if TYPE_CHECKING:
    from starlette.types import ASGIApp


@hookimpl
def wrap_asgi(asgi: ASGIApp, app: App) -> ASGIApp:
    from llamafw_plugins.api_page.middleware import ApiPageMiddleware

    return ApiPageMiddleware(asgi, app)
