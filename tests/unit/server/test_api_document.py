"""The API document: how its parts are merged, and which parts are refused."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import jsonschema
import pytest
import yaml
from connexion.spec import Specification

from llamafw import Settings, SettingsError, SpecError, spec
from llamafw.plugins import Plugins
from llamafw.registry import Registry
from llamafw.server.running_app import RunningApp
from llamafw.server.schema import Schemas, fields_of
from llamafw.spec.fragments import checked_fragment
from support import api


class PlainSampler:
    truncates = False

    def __init__(self, **options: Any) -> None:
        self.options = options

    def create(self, options: Any, context: Any) -> None:
        """Return no sampler."""


def samplers(**options_of: Any) -> Registry:
    registry = Registry("sampler")
    for name, options in options_of.items():
        registry.add(name, PlainSampler(**options), owner=f"dist:{name}")
    return registry


def operation(name: str) -> dict[str, Any]:
    return {"operationId": name, "responses": {200: {"description": "ok"}}}


@pytest.fixture
def document() -> dict[str, Any]:
    return deepcopy(api.DOCUMENT)


def test_the_document_is_valid_openapi() -> None:
    merged = spec.merged_document(Plugins(), Settings())
    Specification.from_dict(deepcopy(merged))


def test_the_document_and_the_endpoints_agree() -> None:
    plugins = Plugins()
    endpoints = Registry("endpoint")
    document = spec.merged_document(plugins, Settings())
    plugins.fill(endpoints, app=RunningApp(Settings(), plugins, document))
    spec.check_endpoints(document, endpoints)


def test_yaml_and_json_renderings_are_equal() -> None:
    document = spec.merged_document(Plugins(), Settings())
    assert json.loads(spec.render(document, "json")) == document
    text = spec.render(document)
    assert yaml.safe_load(text) == document
    assert "&id0" not in text


def test_fragments_are_merged(document: dict[str, Any]) -> None:
    fragment = {
        "paths": {"/more": {"get": operation("more")}, "/counts": {"put": operation("reset_counts")}},
        "components": {"schemas": {"More": {"type": "object"}}},
        "tags": [{"name": "more"}],
    }
    spec.merge(document, checked_fragment(fragment), "a:b", {})
    assert set(document["paths"]["/more"]["get"]["responses"]) == {"200"}  # status codes become strings
    assert {"more", "reset_counts"} <= set(spec.operation_ids(document))
    Specification.from_dict(deepcopy(document))


@pytest.mark.parametrize(
    ("fragment", "message"),
    [
        ({"paths": {"/health": {"get": operation("x")}}}, "GET /health is defined by both openapi.yaml and plugin a:b"),
        (
            {"paths": {"/new": {"get": operation("health")}}},
            "operationId 'health' is defined by both openapi.yaml and plugin a:b",
        ),
        ({"components": {"schemas": {"Error": {}}}}, "components.schemas.Error is defined by both openapi.yaml and"),
        ({"tags": [{"name": "things"}]}, "tag 'things' is defined by both openapi.yaml and plugin a:b"),
        (
            {"paths": {"/items/{name}": {"put": operation("x")}}},
            "the path /items/{name} of plugin a:b is the same as the path /items/{item_id} of openapi.yaml",
        ),
    ],
)
def test_clashing_fragments_name_both_sides(document: dict[str, Any], fragment: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec.merge(document, fragment, "a:b", {})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "fragment",
    [
        {"paths": {"/new": {"get": operation("new")}}},
        {"paths": {"/new/{x}": {"get": operation("new")}}},
        {"components": {"schemas": {"New": {}}}},
        {"tags": [{"name": "new"}]},
    ],
)
def test_clashing_plugins_name_both_sides(document: dict[str, Any], fragment: dict[str, Any]) -> None:
    owners: dict[str, str] = {}
    spec.merge(document, fragment, "a:first", owners)
    with pytest.raises(SpecError, match=r"both plugin a:first and plugin b:second"):
        spec.merge(document, fragment, "b:second", owners)


def test_operations_need_an_operation_id(document: dict[str, Any]) -> None:
    del document["paths"]["/health"]["get"]["operationId"]
    with pytest.raises(SpecError, match="GET /health has no operationId"):
        spec.operation_ids(document)


def test_operation_ids_are_unique(document: dict[str, Any]) -> None:
    document["paths"]["/counts"]["get"]["operationId"] = "health"
    with pytest.raises(SpecError, match="'health' belongs to both GET /health and GET /counts"):
        spec.operation_ids(document)


def test_missing_endpoints_and_operations_are_spec_errors(document: dict[str, Any]) -> None:
    async def endpoint(call: Any) -> None: ...

    endpoints = Registry("endpoint")
    for name in spec.operation_ids(document):
        if name != "health":
            endpoints.add(name, endpoint, owner="a:b")
    endpoints.add("helth", endpoint, owner="a:b")
    with pytest.raises(SpecError) as caught:
        spec.check_endpoints(document, endpoints)
    assert "operation 'health' has no endpoint; did you mean 'helth'?" in str(caught.value)
    assert "endpoint 'helth' of plugin a:b has no operation" in str(caught.value)


def test_endpoints_must_be_async_functions(document: dict[str, Any]) -> None:
    endpoints = Registry("endpoint")
    for name in spec.operation_ids(document):
        endpoints.add(name, print, owner="a:b")
    with pytest.raises(SpecError, match="endpoint 'health' of plugin a:b is not an async function"):
        spec.check_endpoints(document, endpoints)


def test_options_of_samplers_become_fields(document: dict[str, Any]) -> None:
    spec.add_sampler_options(document, samplers(warm={"heat": {"type": "number", "default": 1.0}}, cold={}))
    properties = document["components"]["schemas"]["Options"]["properties"]
    assert properties["heat"] == {
        "nullable": True,
        "type": "number",
        "default": 1.0,
        spec.PLUGIN: "dist:warm",
        "x-llamafw-sampler": "warm",
        "description": "(Added by the plugin `dist:warm`.)",
    }
    assert properties["samplers"]["items"]["enum"] == ["warm", "cold"]


def test_samplers_may_share_an_equal_option(document: dict[str, Any]) -> None:
    heat = {"heat": {"type": "number", "default": 1.0}}
    spec.add_sampler_options(document, samplers(one=heat, two=heat))
    assert "heat" in document["components"]["schemas"]["Options"]["properties"]


@pytest.mark.parametrize(
    ("given", "sides"),
    [
        (
            {"one": {"heat": {"type": "number", "default": 0}}, "two": {"heat": {"type": "integer", "default": 0}}},
            ("sampler 'one' of plugin dist:one", "sampler 'two' of plugin dist:two"),
        ),
        (
            {"one": {"seed": {"type": "number", "default": 0}}},
            ("openapi.yaml (components.schemas.Options)", "sampler 'one' of plugin dist:one"),
        ),
    ],
)
def test_different_options_of_one_name_are_spec_errors(
    document: dict[str, Any], given: Any, sides: tuple[str, str]
) -> None:
    with pytest.raises(SpecError) as caught:
        spec.add_sampler_options(document, samplers(**given))
    for side in sides:
        assert side in str(caught.value)


@pytest.mark.parametrize("name", ["CompletionRequest", "TextCompletionRequest", "ChatCompletionRequest"])
def test_flags_become_defaults(name: str) -> None:
    document = spec.merged_document(Plugins(), Settings(temp=0.3, top_k=7, seed=4, samplers="top_k; min_p"))
    defaults = fields_of({"$ref": f"#/components/schemas/{name}"}, Schemas(document)).defaults
    assert (defaults["temperature"], defaults["top_k"], defaults["seed"]) == (0.3, 7, 4)
    assert defaults["samplers"] == ["top_k", "min_p"]


def test_merging_does_not_change_the_base_document() -> None:
    base = deepcopy(api.DOCUMENT)
    spec.merged_document(Plugins(block=api.BUILT_IN_APIS), Settings(top_k=7), base)
    assert base == api.DOCUMENT


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samplers": "top_kk"}, "--samplers: sampler 'top_kk' does not exist; did you mean 'top_k'?"),
        ({"seed": 2**64}, "--seed: "),
    ],
)
def test_flags_that_no_request_could_set_are_settings_errors(settings: Any, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        spec.merged_document(Plugins(), Settings(**settings))
    assert str(caught.value).startswith(message)


def test_flags_without_their_sampler_are_settings_errors(document: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="--typical-p: no sampler or operation has the request field 'typical_p'"):
        spec.set_defaults(document, Settings(typical=0.5), samplers())


@pytest.mark.parametrize(
    ("schema", "value", "valid"),
    [
        ({"type": "string", "nullable": True}, None, True),
        ({"type": "string"}, None, False),
        ({"type": "string", "enum": ["a"], "nullable": True}, None, True),
        ({"allOf": [{"type": "string"}], "nullable": True}, None, True),
        ({"allOf": [{"type": "string"}], "nullable": True}, 1, False),
        (
            {"type": "object", "properties": {"default": {"type": "integer"}, "example": {"type": "integer"}}},
            {"default": "x"},
            False,
        ),
        (
            {
                "type": "object",
                "properties": {"properties": {"type": "object", "properties": {"a": {"type": "string"}}}},
            },
            {"properties": {"a": 1}},
            False,
        ),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": True}, 0, False),
    ],
)
def test_openapi_schemas_are_converted_to_json_schema(schema: Any, value: Any, valid: bool) -> None:
    assert jsonschema.Draft4Validator(spec.as_json_schema(schema)).is_valid(value) is valid


def fields_with(name: str, schema: dict[str, Any], owner: str) -> Registry:
    fields = Registry("field")
    fields.add(name, schema, owner=owner)
    return fields


def test_fields_of_plugins_are_added_to_generating_operations(document: dict[str, Any]) -> None:
    fields = fields_with("choice", {"type": "array", "items": {"type": "string"}}, "dist:choice")
    spec.add_fields(document, fields, samplers())

    choices = [
        schema["properties"]["choice"]
        for schema in document["components"]["schemas"].values()
        if schema.get(spec.SAMPLER_OPTIONS)
    ]
    assert choices == [
        {
            "nullable": True,
            "type": "array",
            "items": {"type": "string"},
            spec.PLUGIN: "dist:choice",
            "description": "(Added by the plugin `dist:choice`.)",
        }
    ]


def test_fields_that_clash_with_a_sampler_name_both_sides(document: dict[str, Any]) -> None:
    known = samplers(top_k={"top_k": {"type": "integer", "default": 40}})
    spec.add_sampler_options(document, known)
    message = "'top_k' is defined by both sampler 'top_k' of plugin dist:top_k and plugin dist:other"
    with pytest.raises(SpecError, match=message):
        spec.add_fields(document, fields_with("top_k", {"type": "string"}, "dist:other"), known)


@pytest.mark.parametrize(
    ("owners", "side"),
    [({}, "openapi.yaml"), ({"components.schemas.Options": "plugin dist:x"}, "plugin dist:x")],
)
def test_fields_that_clash_with_the_document_name_both_sides(
    document: dict[str, Any], owners: dict[str, str], side: str
) -> None:
    message = rf"'seed' is defined by both {side} \(components.schemas.Options\) and plugin dist:other"
    with pytest.raises(SpecError, match=message):
        spec.add_fields(document, fields_with("seed", {"type": "string"}, "dist:other"), samplers(), owners)
