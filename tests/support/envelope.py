"""Read the error envelope of a response."""

from __future__ import annotations

from typing import Any

import httpx


def read_error(response: httpx.Response, status: int, error_type: str) -> dict[str, Any]:
    """Assert the status and the type of an error response, and return its error object."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert (error["code"], error["type"]) == (status, error_type)
    assert error["message"]
    return error
