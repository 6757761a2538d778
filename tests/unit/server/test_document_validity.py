"""Whether an API document is valid OpenAPI: connexion's own check, which is written in Python, is the reference."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from connexion.exceptions import InvalidSpecification
from connexion.spec import Specification

from llamafw import Settings, SpecError, spec
from llamafw.plugins import Plugins
from llamafw.server.app import build_app

Change = Callable[[dict[str, Any], dict[str, Any]], object]
"""Changes an operation and the properties of a schema that it refers to."""


def document() -> dict[str, Any]:
    schema = {"type": "object", "properties": {"count": {"type": "integer", "default": 3, "maximum": 9}}}
    operation = {
        "operationId": "find",
        "parameters": [{"name": "n", "in": "query", "schema": {"type": "integer", "default": 1}}],
        "responses": {"200": {"description": "ok"}, "default": {"description": "an error"}},
    }
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Body"}}}
    change = {"operationId": "change", "requestBody": {"content": content}, "responses": operation["responses"]}
    return {
        "openapi": "3.0.3",
        "info": {"title": "t", "version": "1"},
        "paths": {"/things": {"get": operation, "post": change}},
        "components": {"schemas": {"Body": schema, "Small": {"type": "integer", "maximum": 9}}},
    }


def put(**schemas: Any) -> Change:
    """Add properties."""
    return lambda operation, properties: properties.update(schemas)


VALID: dict[str, Change] = {
    "unchanged": lambda operation, properties: None,
    "null where it is allowed": put(a={"type": "string", "nullable": True, "default": None}),
    "a property named default": put(default={"type": "string"}, type={"type": "string", "default": "x"}),
    "a reference": put(a={"allOf": [{"$ref": "#/components/schemas/Small"}], "default": 9}),
    "an example": put(a={"type": "string", "example": {"type": "string", "default": 5}}),
    "an extension": put(a={"type": "string", "x-more": {"type": "string", "default": 5}}),
    "a boolean": put(a={"type": "object", "additionalProperties": True, "default": {"b": 1}}),
    "keywords as keys of a mapping": put(
        a={"type": "object", "discriminator": {"propertyName": "p", "mapping": {"default": "x", "type": "y"}}}
    ),
    "siblings of a reference": put(a={"$ref": "#/components/schemas/Small", "default": 10}),
    "a format": put(a={"type": "string", "format": "date-time", "default": "now"}),
    "a default of a schema elsewhere": put(
        a={"allOf": [{"$ref": "#/paths/~1things/get/parameters/0/schema"}], "default": 5}
    ),
    "parts that are named like keywords": lambda operation, properties: operation["responses"]["200"].update(
        headers={name: {"schema": {"type": "integer", "default": 5}} for name in ("schema", "schemas", "example")},
        content={"x-a/b": {"schema": {"type": "object"}, "encoding": {"schemas": {"contentType": "text/plain"}}}},
        links={
            "schema": {
                "operationId": "find",
                "parameters": {"schema": "1", "schemas": [1]},
                "requestBody": {"schema": "x"},
            }
        },
    ),
    "a default of a server": lambda operation, properties: operation.update(
        servers=[{"url": "http://{a}", "variables": {"a": {"enum": ["x", "y"], "default": "x"}}}]
    ),
    "a schema as example": lambda operation, properties: operation["responses"]["200"].update(
        content={"application/json": {"example": {"schema": {"type": "string", "default": 5}}}}
    ),
}

INVALID: dict[str, Change] = {
    "too large": lambda operation, properties: properties["count"].update(default=10),
    "another type": put(a={"type": "string", "default": 5}),
    "null": put(a={"type": "string", "default": None}),
    "not in enum": put(a={"type": "string", "enum": ["x", "y"], "default": "z"}),
    "by reference": put(a={"allOf": [{"$ref": "#/components/schemas/Small"}], "default": 10}),
    "of a property named default": put(default={"type": "string", "default": 5}),
    "in a list": put(a={"type": "array", "items": {"type": "string", "default": 5}}),
    "in a branch": put(a={"anyOf": [{"type": "integer"}, {"type": "string", "default": 5}]}),
    "of other properties": put(a={"type": "object", "additionalProperties": {"type": "string", "default": 5}}),
    "of a parameter": lambda operation, properties: operation["parameters"][0]["schema"].update(default="one"),
    "of a header": lambda operation, properties: operation["responses"]["200"].update(
        headers={"X-Count": {"schema": {"type": "integer", "default": "one"}}}
    ),
    "of a header that is named like an extension": lambda operation, properties: operation["responses"]["200"].update(
        headers={"x-count": {"schema": {"type": "integer", "default": "one"}}}
    ),
    "of a header that is named like a keyword": lambda operation, properties: operation["responses"]["200"].update(
        headers={"example": {"schema": {"type": "integer", "default": "one"}}}
    ),
    "of a media type": lambda operation, properties: operation["responses"]["200"].update(
        content={"x-a/b": {"schema": {"type": "integer", "default": "one"}}}
    ),
    "of a callback": lambda operation, properties: operation.update(
        callbacks={
            "x-c": {
                "{$request.body#/url}": {
                    "post": {
                        "responses": operation["responses"],
                        "parameters": [{"name": "n", "in": "query", "schema": {"type": "integer", "default": "one"}}],
                    }
                }
            }
        }
    ),
    "of an encoding": lambda operation, properties: operation["responses"]["200"].update(
        content={
            "a/b": {
                "schema": {"type": "object"},
                "encoding": {"p": {"headers": {"h": {"schema": {"type": "integer", "default": "one"}}}}},
            }
        }
    ),
    "of a server": lambda operation, properties: operation.update(
        servers=[{"url": "http://{a}", "variables": {"a": {"enum": ["x", "y"], "default": "z"}}}]
    ),
    "unknown type": put(a={"type": "text"}),
    "unknown keyword": lambda operation, properties: operation.update(answer={}),
    "no responses": lambda operation, properties: operation.pop("responses"),
    "a parameter without in": lambda operation, properties: operation["parameters"][0].pop("in"),
}


def changed(change: Change) -> dict[str, Any]:
    result = document()
    change(result["paths"]["/things"]["get"], result["components"]["schemas"]["Body"]["properties"])
    return result


@pytest.mark.parametrize("name", VALID)
def test_valid_documents(name: str) -> None:
    result = changed(VALID[name])
    Specification.from_dict(deepcopy(result))
    assert spec.find_fault(result) is None


@pytest.mark.parametrize("name", INVALID)
def test_invalid_documents(name: str) -> None:
    result = changed(INVALID[name])
    with pytest.raises(InvalidSpecification):
        Specification.from_dict(deepcopy(result))
    assert spec.find_fault(result) is not None


def test_names_of_schemas_may_be_keywords() -> None:
    result = document()
    small = result["components"]["schemas"].pop("Small")
    for name in ("default", "title", "enum", "nullable", "x-a"):
        result["components"]["schemas"][name] = small
        properties = result["components"]["schemas"]["Body"]["properties"]
        properties["a"] = {"allOf": [{"$ref": f"#/components/schemas/{name}"}], "default": 9}
        Specification.from_dict(deepcopy(result))
        assert spec.find_fault(result) is None
        properties["a"]["default"] = 10
        assert spec.find_fault(result) is not None


def test_a_default_that_cannot_be_checked() -> None:
    fault = spec.find_fault(changed(put(a={"allOf": [{"$ref": "#/components/schemas/None"}], "default": 9})))
    assert fault is not None
    assert fault.path == ("components", "schemas", "Body", "properties", "a")
    assert fault.message.startswith("its default cannot be checked: ")


def test_faults_name_the_place_of_a_wrong_default() -> None:
    fault = spec.find_fault(changed(INVALID["in a branch"]))
    assert fault is not None
    assert fault.path == ("components", "schemas", "Body", "properties", "a", "anyOf", 1, "default")
    assert fault.message == '5 is not of type "string"'


def test_faults_name_the_place_of_an_unknown_keyword() -> None:
    fault = spec.find_fault(changed(INVALID["unknown keyword"]))
    assert fault is not None
    assert fault.path == ("paths", "/things", "get")


PLUGIN = """
import llamafw

@llamafw.hookimpl
def extend_openapi():
    return {"components": {"schemas": {"Mine": {"type": "integer", "default": "one"}}}}
"""


def test_the_server_names_the_place_and_the_author(tmp_path: Path) -> None:
    wrong = spec.load_document()
    wrong["components"]["schemas"]["Mine"] = {"type": "string", "default": 5}
    message = "not valid at components.schemas.Mine.default, which {} defines: "
    with pytest.raises(SpecError, match=message.format("openapi.yaml") + '5 is not of type "string"'):
        build_app(Settings(), Plugins(), lambda: pytest.fail("loaded"), document=wrong)

    path = tmp_path / "mine.py"
    path.write_text(PLUGIN, "utf-8")
    with pytest.raises(SpecError, match=message.format("plugin .*mine.py") + '"one" is not of type "integer"'):
        build_app(Settings(), Plugins(extra=[str(path)]), lambda: pytest.fail("loaded"))
