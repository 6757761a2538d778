"""Anthropic's Messages API: ``POST /v1/messages`` and ``/v1/messages/count_tokens``.

``openapi.yaml`` describes the operations. Answers are generated as those of chat completions are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llamafw import App, Register, hookimpl
from llamafw_plugins.fragments import read_fragment

if TYPE_CHECKING:
    from starlette.types import ASGIApp


@hookimpl
def extend_openapi() -> Mapping[str, Any]:
    return read_fragment(__name__)


@hookimpl
def register_endpoints(register: Register, app: App) -> None:
    from llamafw_plugins.anthropic.endpoints import MessageEndpoints

    endpoints = MessageEndpoints(app)
    register("createMessage", endpoints.create)
    register("countMessageTokens", endpoints.count)


@hookimpl
def register_error_formats(register: Register) -> None:
    from llamafw_plugins.anthropic.errors import error_format

    register("/v1/messages", error_format)


@hookimpl
def wrap_asgi(asgi: ASGIApp, app: App) -> ASGIApp:
    from llamafw_plugins.anthropic.request_ids import RequestIdMiddleware

    return RequestIdMiddleware(asgi)
