"""Every failure becomes one envelope: ``{"error": {"code", "message", "type", …}}``. It knows nothing of endpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamafw.errors import FAULTS, RequestError
from llamafw.plugins import Plugins, is_ours, shown
from llamafw.server.access import request_id
from llamafw.server.responses import JSONResponse
from llamafw.types import Problem

log = logging.getLogger("llamafw.server")

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "method_not_allowed_error",
    408: "timeout_error",
    429: "rate_limit_error",
    501: "not_supported_error",
    503: "unavailable_error",
    504: "timeout_error",
}
"""The type of an error by its status; other 4xx are "invalid_request_error", other 5xx "server_error"."""

PLUGIN_ERROR = "plugin_error"
"""The type of a 500 that a plugin is to blame for; the member ``plugin`` names it."""

MESSAGES = {401: "Invalid API Key", 404: "File Not Found"}  # as llama-server says them


def error_type(status: int) -> str:
    """Return the type of an error that has only a status."""
    return TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def envelope(problem: Problem) -> dict[str, Any]:
    """Return the body of an error response."""
    error: dict[str, Any] = {"code": problem.status, "message": problem.message, "type": problem.type}
    if problem.param is not None:
        error["param"] = problem.param
    return {"error": {**problem.extra, **error}}


def problem_of(error: BaseException) -> Problem:
    """Return how a client sees ``error``, without the plugins' say."""
    error = unwrap(error)
    if isinstance(error, RequestError):
        retry_after = getattr(error, "retry_after", None)
        return Problem(error.status, error.message, error.type, error.param, error.extra, retry_after)
    if isinstance(error, HTTPException) and 400 <= error.status_code < 600:  # connexion's problems are of this class
        status = error.status_code
        return Problem(status, MESSAGES.get(status, str(error.detail)), error_type(status))
    return Problem(500, "internal server error", error_type(500))


def unwrap(error: BaseException) -> BaseException:
    """Return the one error of a group that says most: a RequestError if there is one, else the first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [unwrap(part) for part in error.exceptions]
    return next((leaf for leaf in leaves if isinstance(leaf, RequestError)), leaves[0])


def explainer(plugins: Plugins) -> Callable[[BaseException], Problem]:
    """Return `problem_of` with the plugins' ``explain_error`` asked first, and failures put down to plugins."""

    def explain(error: BaseException) -> Problem:
        error = unwrap(error)
        try:
            told: Problem | None = plugins.hook.explain_error(error=error)
        except FAULTS as exc:
            log.exception("plugin %s failed in explain_error", plugins.blamed(exc, "request"))
            told = None
        return told or _put_down(error, problem_of(error), plugins)

    return explain


def _put_down(error: BaseException, problem: Problem, plugins: Plugins) -> Problem:
    """Let a failure say whose it was, if it was in the code of a plugin that is not our own."""
    caught = getattr(error, "source", None) or getattr(error, "plugin", None)  # by the engine
    meant = isinstance(error, RequestError) and not caught
    if problem.status != 500 or meant or isinstance(error, HTTPException):
        return problem
    name = plugins.blamed(error, "request")
    if name is None or is_ours(name):
        return problem
    return replace(problem, type=PLUGIN_ERROR, extra={**problem.extra, "plugin": shown(name)})


def log_failure(scope: Scope, error: BaseException, problem: Problem) -> None:
    """Log what is our fault, with a traceback; what is the client's is its own business."""
    if problem.status == 500:
        name = getattr(unwrap(error), "plugin", None)
        place = f"{scope.get('method')} {scope.get('path')} failed" + (f" in plugin {name}" if name else "")
        log.error("request %s: %s", request_id(), place, exc_info=error)


class ErrorMiddleware:
    """Turns exceptions into error responses. What fails after the response has started can only break it off.

    Parameters
    ----------
    allow : callable
        Returns the value of an Allow header for a path; None if there is no such path.
    """

    def __init__(
        self, app: ASGIApp, *, explain: Callable[[BaseException], Problem], allow: Callable[[str], str | None]
    ) -> None:
        self.app, self.explain, self.allow = app, explain, allow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and answer for what goes wrong."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except ClientDisconnect:
            log.debug("request %s: the client went away", request_id())
        except FAULTS as error:
            if started:
                raise
            await self.respond(scope, error)(scope, receive, send)

    def respond(self, scope: Scope, error: BaseException) -> Response:
        """Return the response to ``error``."""
        problem = self.explain(error)
        log_failure(scope, error, problem)
        headers = {}
        if problem.retry_after is not None:
            headers["Retry-After"] = str(problem.retry_after)
        if problem.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if problem.status == 405:
            headers["Allow"] = self.allow(scope["path"].removeprefix(scope.get("root_path", ""))) or "GET, HEAD"
            if scope["method"] == "OPTIONS":  # a browser's question is none of the document's operations
                return Response(headers=headers)
        return JSONResponse(envelope(problem), status_code=problem.status, headers=headers)
