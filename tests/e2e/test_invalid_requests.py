"""Invalid bodies and field values for every operation are a 400 that names the field.

The requests are generated from the API document, so new operations and fields are covered automatically.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import httpx
import pytest

from llamafw import Settings
from llamafw.plugins import Plugins
from llamafw.server.schema import Schemas
from llamafw.spec import merged_document, operations

DOCUMENT = merged_document(Plugins(), Settings())
SCHEMAS = Schemas(DOCUMENT)
BODIES = {
    operation["operationId"]: (method, path.replace("{id_slot}", "0?action=save"), operation)
    for path, method, operation in operations(DOCUMENT)
    if "requestBody" in operation
}
"""Method, path and definition of each operation with a body."""

INVALID_BODIES = {
    "invalid UTF-8": b'{"prompt":"\xff\xfe","content":"\xff"}',
    "incomplete": b"{",
    "deep": b"[" * 100_000,
    "a number": b"5",
    "a text": b'"x"',
    "NaN": b"NaN",
    "two values": b"{}{}",
}
ODD_VALUES: tuple[Any, ...] = ({"not": "this"}, [{"not": "this"}], "not this", True, 5.5, -(2**62))
"""Values of all types; each field refuses some of them."""


def content(operation: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = operation["requestBody"]["content"]["application/json"]
    return found


def example(operation: dict[str, Any]) -> Any:
    """Return a valid body."""
    found = content(operation)
    return found["example"] if "example" in found else next(iter(found["examples"].values()))["value"]


REQUIRED = [
    (name, field)
    for name, (_, _, operation) in BODIES.items()
    for field in SCHEMAS.raw(content(operation)["schema"]).get("required", ())
]
"""Names of operations with their required fields."""


@cache
def properties(name: str) -> dict[str, Any]:
    """Return the fields of an operation's body with their schemas."""
    found: dict[str, Any] = {}

    def collect(schema: Any) -> None:
        schema = SCHEMAS.raw(schema)
        found.update(schema.get("properties", {}))
        for part in (*schema.get("allOf", ()), *schema.get("anyOf", ()), *schema.get("oneOf", ())):
            collect(part)

    collect(content(BODIES[name][2])["schema"])
    return found


def wrong_values(name: str) -> Iterator[tuple[str, Any]]:
    """Yield fields of an operation with values that the document does not allow."""
    for field, schema in properties(name).items():
        converted = SCHEMAS.convert(schema)
        validator = SCHEMAS.validator(converted)
        yield from ((field, value) for value in ODD_VALUES if not validator.is_valid(value))


def refused(http: httpx.Client, name: str, **sent: Any) -> tuple[str | None, str]:
    """Return the field and the message of the error with which an operation refuses a body."""
    method, path, _ = BODIES[name]
    response = http.request(method, path, **sent)
    assert response.status_code == 400, (path, sent, response.text)
    body = response.json()
    error = body["error"] if "error" in body else body["message"]  # Cohere's
    if isinstance(error, str):  # Ollama's and TEI's too
        return field_and_message(error)
    assert error["type"] == "invalid_request_error"
    if body.get("type") == "error":  # Anthropic's
        return field_and_message(error["message"])
    assert error["code"] == 400
    return error.get("param"), error["message"]


def field_and_message(text: str) -> tuple[str | None, str]:
    """Return the parts of a message in an API whose errors do not have the field separately."""
    assert text
    match = re.fullmatch(r"(?:([\w.]+): )?((?:([\w.]+) )?.*)", text, re.DOTALL)
    assert match
    return match[1] or match[3], match[2]


@pytest.mark.inventory("H-09", "F-15", "D-27", "R-05", "R-20", "R-21", "R-22")
@pytest.mark.parametrize("name", BODIES)
def test_invalid_bodies_are_refused_by_every_operation(http: httpx.Client, name: str) -> None:
    for body in INVALID_BODIES.values():
        assert refused(http, name, content=body)[1]
    if BODIES[name][2]["requestBody"].get("required"):
        for body in (b"", b"null"):
            assert refused(http, name, content=body)[1]
    assert http.get("/health").status_code == 200


@pytest.mark.inventory("F-16", "E-020", "E-031", "E-101", "E-151", "E-171", "E-221")
@pytest.mark.parametrize("name", BODIES)
def test_fields_of_wrong_type_are_named(http: httpx.Client, name: str) -> None:
    body = example(BODIES[name][2])
    cases = list(wrong_values(name))
    assert cases or not isinstance(body, dict)
    for field, value in cases:
        named, message = refused(http, name, json={**body, field: value})
        assert named, (field, value, message)
        assert field in (named, named.partition(".")[0]), (field, value, message)  # names may have dots
    assert http.get("/health").status_code == 200


@pytest.mark.inventory("E-010", "E-100", "E-130", "E-140", "E-150", "E-160", "R-15", "R-17", "R-18", "R-19")
@pytest.mark.parametrize(("name", "field"), REQUIRED)
def test_missing_fields_are_named(http: httpx.Client, name: str, field: str) -> None:
    body = {key: value for key, value in example(BODIES[name][2]).items() if key != field}
    assert refused(http, name, json=body) == (field, f"{field} is required")


@pytest.mark.inventory("E-011", "E-013", "E-014", "E-015", "E-016", "E-022", "E-023", "E-024", "E-025", "E-027")
@pytest.mark.parametrize("name", ["createCompletion", "createTextCompletion", "createChatCompletion"])
def test_numbers_at_their_limits_are_answered_or_refused(http: httpx.Client, name: str) -> None:
    """A number at the limits of its range is answered or refused; the server keeps running."""
    _, path, operation = BODIES[name]
    body = {**example(operation), "max_tokens": 2, "n_predict": 2, "stream": False}
    numbers = {
        field: SCHEMAS.raw(schema)
        for field, schema in properties(name).items()
        if SCHEMAS.raw(schema).get("type") in ("integer", "number")
    }
    assert len(numbers) > 20

    for field, schema in numbers.items():
        for value in {schema.get("minimum", -1e308), schema.get("maximum", 1e308), 0}:
            if field in ("n_predict", "max_tokens", "max_completion_tokens", "n", "best_of") and value != 0:
                continue  # many tokens or choices take too long
            response = http.post(path, json={**body, field: value})
            if response.status_code != 200:
                assert response.status_code in (400, 501, 504), (field, value, response.text)
                assert response.json()["error"].get("param", field) == field, (field, value, response.text)
    assert http.get("/health").status_code == 200
