"""Anthropic's error responses: ``{"type": "error", "error": {"type", "message"}, "request_id"}``.

The statuses and types are listed at https://platform.claude.com/docs/en/api/errors.
"""

from __future__ import annotations

from llamafw import Problem, request_id
from llamafw_plugins.endpoints.response_json import JSON, problem_text

STATUSES = {501: 400, 503: 529}
"""Statuses that Anthropic's API does not have → those that it has.

Clients repeat requests after a 5xx, which does not help after a 501.
"""

TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""The type of an error by its status; other 4xx are "invalid_request_error", other 5xx "api_error"."""


def error_format(problem: Problem) -> tuple[int, JSON]:
    """Return the status and the body of an error response."""
    status = STATUSES.get(problem.status, problem.status)
    default = "invalid_request_error" if status < 500 else "api_error"
    error = {"type": TYPES.get(status, default), "message": message_of(problem)}
    return status, {"type": "error", "error": error, "request_id": request_id()}


def message_of(problem: Problem) -> str:
    """Return the message of an error, with the request field that is wrong.

    Clients recognise a prompt that is too long by the words of Anthropic's own message, and then shorten it.
    """
    sizes = problem.extra.get("n_prompt_tokens"), problem.extra.get("n_ctx")
    if problem.type == "exceed_context_size_error" and None not in sizes:
        return f"prompt is too long: {sizes[0]} tokens > {sizes[1]} maximum"
    return problem_text(problem)
