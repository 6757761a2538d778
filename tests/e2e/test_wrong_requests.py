"""Every operation and every field of the document, given what it is not, on a real server: a 400 that names it.

What is sent is made from the document itself, so that a new field or operation is among it without a word here.
"""

from __future__ import annotations

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
POSTS = {
    operation["operationId"]: (path.replace("{id_slot}", "0?action=save"), operation)
    for path, _, operation in operations(DOCUMENT)
    if "requestBody" in operation
}
RUBBISH = {
    "no UTF-8": b'{"prompt":"\xff\xfe","content":"\xff"}',
    "half": b"{",
    "deep": b"[" * 100_000,
    "a number": b"5",
    "a text": b'"x"',
    "nothing known": b"NaN",
    "two": b"{}{}",
    "a surrogate": b'{"prompt": "\\ud800"}',
}
OTHERS: tuple[Any, ...] = ({"not": "this"}, [{"not": "this"}], "not this", True, 5.5, -(2**62))


def content(operation: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = operation["requestBody"]["content"]["application/json"]
    return found


def example(operation: dict[str, Any]) -> Any:
    """A body that is right."""
    return next(iter(content(operation)["examples"].values()))["value"]


@cache
def properties(name: str) -> dict[str, Any]:
    """The fields of an operation's body, as raw schemas."""
    found: dict[str, Any] = {}

    def collect(schema: Any) -> None:
        schema = SCHEMAS.raw(schema)
        found.update(schema.get("properties", {}))
        for part in (*schema.get("allOf", ()), *schema.get("anyOf", ()), *schema.get("oneOf", ())):
            collect(part)

    collect(content(POSTS[name][1])["schema"])
    return found


def wrong_values(name: str) -> Iterator[tuple[str, Any]]:
    """Every field of an operation with values that the document does not allow."""
    for field, schema in properties(name).items():
        converted = SCHEMAS.convert(schema)
        validator = SCHEMAS.validator(converted)
        yield from ((field, value) for value in OTHERS if not validator.is_valid(value))


def refused(http: httpx.Client, path: str, **sent: Any) -> dict[str, Any]:
    response = http.post(path, **sent)
    assert response.status_code == 400, (path, sent, response.text)
    error: dict[str, Any] = response.json()["error"]
    assert (error["code"], error["type"]) == (400, "invalid_request_error")
    assert error["message"]
    return error


@pytest.mark.inventory("H-09", "F-15", "D-27", "R-05", "R-20", "R-21", "R-22")
@pytest.mark.parametrize("name", POSTS)
def test_what_is_no_body(http: httpx.Client, name: str) -> None:
    path, operation = POSTS[name]
    for body in RUBBISH.values():
        refused(http, path, content=body)
    if operation["requestBody"].get("required"):
        refused(http, path, content=b"")
        refused(http, path, content=b"null")
    assert http.get("/health").status_code == 200


@pytest.mark.inventory("F-16", "E-020", "E-031", "E-101", "E-151", "E-171", "E-221")
@pytest.mark.parametrize("name", POSTS)
def test_fields_that_are_something_else(http: httpx.Client, name: str) -> None:
    path, operation = POSTS[name]
    body = example(operation)
    cases = list(wrong_values(name))
    assert cases or not isinstance(body, dict)
    for field, value in cases:
        error = refused(http, path, json={**body, field: value})
        assert error.get("param", "").partition(".")[0] == field, (field, value, error)
    assert http.get("/health").status_code == 200


@pytest.mark.inventory("E-010", "E-100", "E-130", "E-140", "E-150", "E-160", "R-15", "R-17", "R-18", "R-19")
@pytest.mark.parametrize("name", POSTS)
def test_fields_that_are_missing(http: httpx.Client, name: str) -> None:
    path, operation = POSTS[name]
    body = example(operation)
    for field in SCHEMAS.raw(content(operation)["schema"]).get("required", ()):
        error = refused(http, path, json={key: value for key, value in body.items() if key != field})
        assert error["param"] == field
        assert field in error["message"]


@pytest.mark.inventory("E-011", "E-013", "E-014", "E-015", "E-016", "E-022", "E-023", "E-024", "E-025", "E-027")
@pytest.mark.parametrize("name", ["createCompletion", "createTextCompletion", "createChatCompletion"])
def test_numbers_at_their_ends(http: httpx.Client, name: str) -> None:
    """At the ends of its range, a number is answered, or refused by name; it ends nothing."""
    path, operation = POSTS[name]
    body = {**example(operation), "max_tokens": 2, "n_predict": 2, "stream": False}
    numbers = {
        field: SCHEMAS.raw(schema)
        for field, schema in properties(name).items()
        if SCHEMAS.raw(schema).get("type") in ("integer", "number")
    }
    assert len(numbers) > 20
    for field, schema in numbers.items():
        for value in {schema.get("minimum", -1e308), schema.get("maximum", 1e308), 0}:
            if field in ("n_predict", "max_tokens", "max_completion_tokens", "n", "best_of", "n_cmpl") and value != 0:
                continue  # as many tokens or answers as there can be take their time
            response = http.post(path, json={**body, field: value})
            if response.status_code != 200:
                assert response.status_code in (400, 501, 504), (field, value, response.text)
                assert response.json()["error"].get("param", field) == field, (field, value, response.text)
    assert http.get("/health").status_code == 200
