"""Ollama's error responses and error lines: ``{"error": "…"}``."""

from __future__ import annotations

from collections.abc import Iterator

from llamafw import Problem
from llamafw_plugins.endpoints.response_json import JSON

FORMAT_PARAM = "response_format.json_schema.schema"  # what `format` becomes


def error_format(problem: Problem) -> tuple[int, JSON]:
    """Return the status and the body of an error response."""
    message, param = problem.message, problem.param
    if param is not None and param not in message:
        message = f"{param.replace(FORMAT_PARAM, 'format')}: {message}"
    return problem.status, {"error": message}


def error_lines(problem: Problem) -> Iterator[JSON]:
    """Yield the line that ends a stream with an error."""
    yield error_format(problem)[1]
