"""The suite for endpoints names the rule that an operation breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamafw.testing.conformance import EndpointConformance
from llamafw.testing.conformance.endpoint import can_be_invalid
from support.conformance import assert_fails, suite

PLUGIN = """
import json
from llamafw import hookimpl

OPERATION = json.loads('''OPERATION''')

@hookimpl
def extend_openapi():
    return {"paths": {"/items/{name}": {"post": OPERATION}}}

@hookimpl
def register_endpoints(register, app):
    async def item(call): return {}

    register("item", item)
"""
VALID = """{
  "operationId": "item",
  "summary": "An item.",
  "parameters": [{"name": "name", "in": "path", "required": true, "description": "Its name.",
                  "schema": {"type": "string"}}],
  "responses": {
    "200": {"description": "The item.", "content": {"application/json": {"schema": {"type": "object"}}}},
    "401": {"$ref": "#/components/responses/Unauthorized"},
    "500": {"$ref": "#/components/responses/InternalError"}
  }
}"""


@pytest.mark.parametrize(
    ("old", "new", "test", "message"),
    [
        ('"summary": "An item.",', "", "operations_are_described", "POST /items/{name} has no summary"),
        ('"401"', '"403"', "operations_are_described", "does not document the responses 401"),
        ('{"type": "string"}', '{"type": "string", "maxLength": 9}', "operations_are_described", "the responses 400"),
        (', "description": "Its name."', "", "operations_are_described", "the parameter name has no description"),
        ('{"type": "string"}', '{"type": "integer"}', "integers_have_bounds", "an integer without minimum and maximum"),
        (
            '{"schema": {"type": "object"}}',
            '{"schema": {"type": "object"}, "example": 1}',
            "examples_are_valid",
            "the example 1 is not valid",
        ),
    ],
)
def test_broken_rule_is_reported(old: str, new: str, test: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "valid.py").write_text(PLUGIN.replace("OPERATION'", f"{VALID}'"))
    (tmp_path / "broken.py").write_text(PLUGIN.replace("OPERATION'", f"{VALID.replace(old, new)}'"))
    getattr(endpoints(tmp_path / "valid.py"), f"test_{test}")(tmp_path)
    assert_fails(getattr(endpoints(tmp_path / "broken.py"), f"test_{test}"), message, tmp_path)


def endpoints(path: Path) -> Any:
    return suite(EndpointConformance, None, name=str(path), plugins=(str(path),))


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        ({"in": "path", "required": True, "schema": {"type": "string"}}, False),
        ({"in": "path", "required": True, "schema": {"type": "string", "pattern": "^a$"}}, True),
        ({"in": "path", "required": True, "schema": {"type": "integer"}}, True),
        ({"in": "query", "schema": {"type": "string"}}, False),
        ({"in": "query", "required": True, "schema": {"type": "string"}}, True),
    ],
)
def test_parameters_with_invalid_values_are_recognised(parameter: dict[str, Any], expected: bool) -> None:
    assert can_be_invalid(parameter) is expected


def test_unknown_plugin_is_reported(tmp_path: Path) -> None:
    made = suite(EndpointConformance, None, name="nobody")
    assert_fails(made.test_integers_have_bounds, "no plugin 'nobody' registers an endpoint", tmp_path)
