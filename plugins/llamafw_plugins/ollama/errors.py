"""Ollama's error responses and error lines: ``{"error": "…"}``."""

from __future__ import annotations

from collections.abc import Iterator

from llamafw import Problem
from llamafw_plugins.endpoints.response_json import JSON, problem_text


def error_format(problem: Problem) -> tuple[int, JSON]:
    """Return the status and the body of an error response."""
    return problem.status, {"error": problem_text(problem)}


def error_lines(problem: Problem) -> Iterator[JSON]:
    """Yield the line that ends a stream with an error."""
    yield error_format(problem)[1]
