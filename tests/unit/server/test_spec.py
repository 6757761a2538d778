"""The API document: what is merged into it, and what is refused."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
import yaml
from connexion.spec import Specification

from llamafw import Settings, SettingsError, SpecError, spec
from llamafw.plugins import Plugins
from llamafw.registry import Registry
from llamafw.server.running_app import RunningApp
from llamafw.spec.fragments import checked
from support import api


class Sampler:
    truncates = False

    def __init__(self, **options: Any) -> None:
        self.options = options

    def create(self, options: Any, context: Any) -> None:
        """Nothing."""


def samplers(**given: Any) -> Registry:
    registry = Registry("sampler")
    for name, options in given.items():
        registry.add(name, Sampler(**options), owner=f"dist:{name}")
    return registry


def operation(name: str, **more: Any) -> dict[str, Any]:
    return {"operationId": name, "responses": {200: {"description": "ok"}}, **more}


@pytest.fixture
def document() -> dict[str, Any]:
    return deepcopy(api.DOCUMENT)


def test_the_real_document_is_valid_openapi() -> None:
    merged = spec.merged_document(Plugins(), Settings())
    Specification.from_dict(deepcopy(merged))


def test_the_real_document_and_the_real_endpoints_agree() -> None:
    plugins = Plugins()
    endpoints = Registry("endpoint")
    document = spec.merged_document(plugins, Settings())
    plugins.fill(endpoints, app=RunningApp(Settings(), plugins, document))
    spec.check(document, endpoints)


def test_both_renderings_say_the_same() -> None:
    document = spec.merged_document(Plugins(), Settings())
    assert json.loads(spec.render(document, "json")) == document
    text = spec.render(document)
    assert yaml.safe_load(text) == document
    assert "&id0" not in text


def test_a_fragment_is_added(document: dict[str, Any]) -> None:
    fragment = {
        "paths": {"/more": {"get": operation("more")}, "/seen": {"put": operation("unsee")}},
        "components": {"schemas": {"More": {"type": "object"}}},
        "tags": [{"name": "more"}],
    }
    spec.merge(document, checked(fragment), "a:b", {})
    assert set(document["paths"]["/more"]["get"]["responses"]) == {"200"}  # YAML's numbers become text
    assert {"more", "unsee"} <= set(spec.operation_ids(document))
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
            "the path /items/{name} of plugin a:b is the path /items/{item_id} of openapi.yaml",
        ),
    ],
)
def test_clashes_name_both_sides(document: dict[str, Any], fragment: dict[str, Any], message: str) -> None:
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
def test_two_plugins_clash_too(document: dict[str, Any], fragment: dict[str, Any]) -> None:
    owners: dict[str, str] = {}
    spec.merge(document, fragment, "a:first", owners)
    with pytest.raises(SpecError, match=r"both plugin a:first and plugin b:second"):
        spec.merge(document, fragment, "b:second", owners)


def test_an_operation_needs_an_id(document: dict[str, Any]) -> None:
    del document["paths"]["/health"]["get"]["operationId"]
    with pytest.raises(SpecError, match="GET /health has no operationId"):
        spec.operation_ids(document)


def test_an_id_belongs_to_one_operation(document: dict[str, Any]) -> None:
    document["paths"]["/seen"]["get"]["operationId"] = "health"
    with pytest.raises(SpecError, match="'health' belongs to both GET /health and GET /seen"):
        spec.operation_ids(document)


def test_document_and_endpoints_must_agree(document: dict[str, Any]) -> None:
    async def endpoint(call: Any) -> None: ...

    endpoints = Registry("endpoint")
    for name in spec.operation_ids(document):
        if name != "health":
            endpoints.add(name, endpoint, owner="a:b")
    endpoints.add("helth", endpoint, owner="a:b")
    with pytest.raises(SpecError) as caught:
        spec.check(document, endpoints)
    assert "operation 'health' has no endpoint (there is 'helth')" in str(caught.value)
    assert "endpoint 'helth' of plugin a:b has no operation" in str(caught.value)


def test_endpoints_must_be_coroutine_functions(document: dict[str, Any]) -> None:
    endpoints = Registry("endpoint")
    for name in spec.operation_ids(document):
        endpoints.add(name, print, owner="a:b")
    with pytest.raises(SpecError, match="endpoint 'health' of plugin a:b is no coroutine function"):
        spec.check(document, endpoints)


def test_samplers_options_become_fields(document: dict[str, Any]) -> None:
    spec.add_sampler_options(document, samplers(warm={"heat": {"type": "number", "default": 1.0}}, cold={}))
    properties = document["components"]["schemas"]["Options"]["properties"]
    assert properties["heat"] == {
        "nullable": True,
        "type": "number",
        "default": 1.0,
        spec.PLUGIN: "dist:warm",
        "description": "(Of the plugin `dist:warm`.)",
    }
    assert properties["samplers"]["items"]["enum"] == ["warm", "cold"]


def test_samplers_may_share_an_option(document: dict[str, Any]) -> None:
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
def test_options_that_disagree_name_both_sides(document: dict[str, Any], given: Any, sides: tuple[str, str]) -> None:
    with pytest.raises(SpecError) as caught:
        spec.add_sampler_options(document, samplers(**given))
    for side in sides:
        assert side in str(caught.value)


def test_flags_become_defaults() -> None:
    document = spec.merged_document(Plugins(), Settings(temp=0.3, top_k=7, seed=4, samplers="top_k; min_p"))
    for name in ("CompletionRequest", "TextCompletionRequest", "ChatCompletionRequest"):
        text = json.dumps(document["components"]["schemas"][name])
        assert name in text or text
    shown = [
        schema["properties"]
        for schema in document["components"]["schemas"].values()
        if schema.get(spec.SAMPLER_OPTIONS)
    ]
    assert shown
    for properties in shown:
        assert properties["temperature"]["default"] == 0.3
        assert properties["top_k"]["default"] == 7
    assert any(properties["samplers"]["default"] == ["top_k", "min_p"] for properties in shown)


def test_the_installed_document_is_not_changed() -> None:
    base = deepcopy(api.DOCUMENT)
    spec.merged_document(Plugins(block=["endpoints", "metrics"]), Settings(top_k=7), base)
    assert base == api.DOCUMENT


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"samplers": "topk"}, "--samplers: there is no sampler 'topk'; did you mean 'top_k'?"),
        ({"seed": 2**40}, "--seed: "),
    ],
)
def test_flags_that_no_request_could_set_are_refused(given: Any, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        spec.merged_document(Plugins(), Settings(**given))
    assert str(caught.value).startswith(message)


def test_a_flag_without_its_sampler_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="--typical: no sampler or operation takes 'typical_p'"):
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
def test_openapi_schemas_as_json_schemas(schema: Any, value: Any, valid: bool) -> None:
    import jsonschema

    assert jsonschema.Draft4Validator(spec.as_json_schema(schema)).is_valid(value) is valid


def test_fields_of_plugins_join_every_generating_operation(document: dict[str, Any]) -> None:
    fields = Registry("field")
    fields.add("choice", {"type": "array", "items": {"type": "string"}}, owner="dist:choice")
    known = samplers(top_k={"top_k": {"type": "integer", "default": 40}})
    spec.add_sampler_options(document, known)
    spec.add_fields(document, fields, known)
    found = [
        schema["properties"]["choice"]
        for schema in document["components"]["schemas"].values()
        if schema.get(spec.SAMPLER_OPTIONS)
    ]
    assert found == [
        {
            "nullable": True,
            "type": "array",
            "items": {"type": "string"},
            spec.PLUGIN: "dist:choice",
            "description": "(Of the plugin `dist:choice`.)",
        }
    ]
    fields = Registry("field")
    fields.add("top_k", {"type": "string"}, owner="dist:other")
    both = "'top_k' is defined by both sampler 'top_k' of plugin dist:top_k and plugin dist:other"
    with pytest.raises(SpecError, match=both):
        spec.add_fields(document, fields, known)
    fields = Registry("field")
    fields.add("seed", {"type": "string"}, owner="dist:other")
    for owners, side in (({}, "openapi.yaml"), ({"components.schemas.Options": "plugin dist:x"}, "plugin dist:x")):
        both = rf"'seed' is defined by both {side} \(components.schemas.Options\) and plugin dist:other"
        with pytest.raises(SpecError, match=both):
            spec.add_fields(document, fields, known, owners)
