"""Turn every exception into an error response: ``{"error": {"code", "message", "type", …}}``.

`llamafw.server.error_formats` knows the formats that plugins have for their paths.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamafw.errors import FAULTS, RequestError
from llamafw.plugins import Plugins, is_builtin, public_name
from llamafw.plugins.failures import drop_context
from llamafw.server.access_log import encode_path
from llamafw.server.content_coding import CODINGS
from llamafw.server.request_id import request_id
from llamafw.server.responses import JSONResponse
from llamafw.types import Problem

log = logging.getLogger("llamafw.server")

ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "method_not_allowed_error",
    408: "timeout_error",
    415: "unsupported_media_type_error",
    429: "rate_limit_error",
    501: "not_supported_error",
    503: "unavailable_error",
    504: "timeout_error",
}
"""The type of an error by its status; other 4xx are "invalid_request_error", other 5xx "server_error"."""

PLUGIN_ERROR = "plugin_error"
"""The type of a 500 that a plugin caused; the member ``plugin`` names the plugin."""

FormatError = Callable[[Scope, Problem], tuple[int, Any]]
"""Returns the status and the body of the response to a request that failed."""

INVALID_KEY = "Invalid API Key"  # llama-server's message
DEFAULT_DETAILS = {status: HTTPStatus(status).phrase for status in (404, 405)}  # of an HTTPException


def error_type(status: int) -> str:
    """Return the type of errors with a status."""
    return ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def envelope(problem: Problem) -> dict[str, Any]:
    """Return the body of an error response."""
    error: dict[str, Any] = {"code": problem.status, "message": problem.message, "type": problem.type}
    if problem.param is not None:
        error["param"] = problem.param
    return {"error": {**problem.extra, **error}}


def problem_of(error: BaseException) -> Problem:
    """Return the error that a client receives for an exception, without asking plugins."""
    error = unwrap(error)
    if isinstance(error, RequestError):
        retry_after = getattr(error, "retry_after", None)
        return Problem(error.status, error.message, error.type, error.param, error.extra, retry_after)
    if isinstance(error, HTTPException) and 400 <= error.status_code < 600:  # includes connexion's exceptions
        status = error.status_code
        return Problem(status, INVALID_KEY if status == 401 else str(error.detail), error_type(status))
    return Problem(500, "internal server error", error_type(500))


def unwrap(error: BaseException) -> BaseException:
    """Return the most helpful exception of a group: a RequestError if there is one, else the first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [unwrap(part) for part in error.exceptions]
    return next((leaf for leaf in leaves if isinstance(leaf, RequestError)), leaves[0])


def explainer(plugins: Plugins) -> Callable[[BaseException], Problem]:
    """Return a function like `problem_of` that asks plugins' ``explain_error`` first and names plugins that failed."""

    def explain(error: BaseException) -> Problem:
        error = unwrap(error)
        try:
            explained: Problem | None = plugins.hook.explain_error(error=error)
        except FAULTS as exc:
            drop_context(exc, error)
            plugins.log_failure(plugins.report_failure(exc, "request"), "explain_error", exc)
            explained = None
        return explained or _name_plugin(error, problem_of(error), plugins)

    return explain


def _name_plugin(error: BaseException, problem: Problem, plugins: Plugins) -> Problem:
    """Add the name of the plugin that caused an unexpected failure, unless the plugin is built in."""
    was_caught = getattr(error, "source", None) or getattr(error, "plugin", None)  # by the engine
    is_intended = isinstance(error, RequestError) and not was_caught
    if problem.status != 500 or is_intended or isinstance(error, HTTPException):
        return problem

    name = plugins.report_failure(error, "request")
    if name is None or is_builtin(name):
        return problem
    return replace(problem, type=PLUGIN_ERROR, extra={**problem.extra, "plugin": public_name(name)})


def log_failure(scope: Scope, error: BaseException, problem: Problem) -> None:
    """Log a failure of the server with its traceback, unless the engine has.

    Errors of clients are not logged.
    """
    if problem.status == 500 and not getattr(unwrap(error), "logged", False):
        name = getattr(unwrap(error), "plugin", None)
        plugin = f" in plugin {name}" if name else ""
        log.error(
            "request %s: %s %s failed%s", request_id(), scope["method"], encode_path(scope), plugin, exc_info=error
        )


class ErrorMiddleware:
    """Turns exceptions into error responses.

    If a response has started, the exception passes on and cuts it off.

    Parameters
    ----------
    app : ASGI application
        The application that may raise exceptions.
    explain : callable
        Turns an exception into the error that the client receives.
    allowed_methods : callable
        Returns the value of the Allow header for a path, or None if no operation has this path.
    format_error : callable, optional
        Returns the status and the body of the response for a request and its error; see `ErrorFormats`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        explain: Callable[[BaseException], Problem],
        allowed_methods: Callable[[str], str | None],
        format_error: FormatError = lambda scope, problem: (problem.status, envelope(problem)),
    ) -> None:
        self.app, self.explain, self.allowed_methods = app, explain, allowed_methods
        self.format_error = format_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and answer if it fails."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        has_started = False

        async def watch_send(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self.app(scope, receive, watch_send)
        except ClientDisconnect:
            log.debug("request %s: the client disconnected", request_id())
        except FAULTS as error:
            if has_started:
                raise
            await self.error_response(scope, error)(scope, receive, send)

    def error_response(self, scope: Scope, error: BaseException) -> Response:
        """Return the response to a request that raised ``error``."""
        problem = self.explain(error)
        log_failure(scope, error, problem)

        headers = {}
        if problem.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if problem.status == 415:
            headers["Accept-Encoding"] = CODINGS
        if problem.retry_after is not None:
            headers["Retry-After"] = str(problem.retry_after)

        if problem.status == 405:
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            headers["Allow"] = self.allowed_methods(path) or "GET, HEAD"
            if scope["method"] == "OPTIONS":  # the client asks for the methods; no operation answers that
                return Response(headers=headers)

        if problem.message == DEFAULT_DETAILS.get(problem.status):
            problem = replace(problem, message=_routing_message(scope, headers.get("Allow")))
        status, body = self.format_error(scope, problem)
        return JSONResponse(body, status_code=status, headers=headers)


def _routing_message(scope: Scope, allowed: str | None) -> str:
    """Say that no operation has a request's path, or which methods the path has."""
    method, path = scope["method"], encode_path(scope)
    if allowed is not None:
        return f"{method} is not allowed for {path}; allowed methods: {allowed}"
    return f"{method} {path} does not exist; /docs lists every operation"
