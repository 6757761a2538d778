"""The error responses of Text Embeddings Inference and of Cohere."""

from __future__ import annotations

from uuid import uuid4

from llamafw import Problem
from llamafw_plugins.endpoints.response_json import JSON, problem_text

TEI_TYPES = {429: "Overloaded", 500: "Backend", 503: "Unhealthy"}  # status → TEI's word; others are "Validation"


def tei_format(problem: Problem) -> tuple[int, JSON]:
    """Return the status and TEI's body of an error response."""
    return problem.status, {
        "error": problem_text(problem),
        "error_type": TEI_TYPES.get(problem.status, "Validation"),
    }


def cohere_format(problem: Problem) -> tuple[int, JSON]:
    """Return the status and Cohere's body of an error response."""
    return problem.status, {"id": str(uuid4()), "message": problem_text(problem)}
