"""openapi.yaml is complete, its integers have bounds, and its examples are valid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from llamafw import Settings
from llamafw.plugins import Plugins
from llamafw.spec import as_json_schema, load_document, merged_document, operations

DOCUMENT = load_document()
OPERATIONS = [operation for _, _, operation in operations(DOCUMENT)]


def walk(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield the path and the value of every mapping in a document."""
    if isinstance(node, dict):
        yield path, node
        for name, child in node.items():
            yield from walk(child, (*path, name))
    elif isinstance(node, list):
        for i, child in enumerate(node):
            yield from walk(child, (*path, str(i)))


NODES = list(walk(DOCUMENT))


def validator(schema: Any) -> jsonschema_rs.Draft4Validator:
    root = {
        "allOf": [as_json_schema(schema)],
        "components": {"schemas": as_json_schema(DOCUMENT["components"]["schemas"])},
    }
    return jsonschema_rs.Draft4Validator(root)


def test_integers_have_bounds() -> None:
    integers = [(path, node) for path, node in NODES if node.get("type") == "integer"]
    assert integers
    assert [path for path, node in integers if not {"minimum", "maximum"} <= set(node)] == []


def test_references_resolve() -> None:
    references = [(path, node) for path, node in NODES if "$ref" in node]
    assert references
    for path, node in references:
        target = DOCUMENT
        for name in node["$ref"].removeprefix("#/").split("/"):
            target = target[name]
        assert len(node) == 1, path  # OpenAPI 3.0 ignores the siblings of a reference


def test_schemas_are_used_or_for_plugins() -> None:
    used = {node["$ref"].rpartition("/")[2] for _, node in NODES if "$ref" in node}
    assert set(DOCUMENT["components"]["schemas"]) - used == {"GenerationOptions", "ChatOptions", "ThinkingOptions"}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation["operationId"])
def test_operation_is_complete(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    assert operation["summary"]
    assert {"200", "500"} <= set(responses)
    assert ("401" in responses) is (operation.get("security") != [])
    if "requestBody" in operation:
        assert {"400", "413", "503"} <= set(responses)


@pytest.mark.parametrize(
    "operation", [each for each in OPERATIONS if "requestBody" in each], ids=lambda operation: operation["operationId"]
)
def test_request_examples_are_valid(operation: dict[str, Any]) -> None:
    content = operation["requestBody"]["content"]["application/json"]
    assert content["examples"]
    for name, example in content["examples"].items():
        assert validator(content["schema"]).is_valid(example["value"]), name


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation["operationId"])
def test_event_streams_describe_their_events(operation: dict[str, Any]) -> None:
    contents = [item for response in operation["responses"].values() for item in response.get("content", {}).items()]
    assert contents
    for media_type, content in contents:
        assert (media_type == "text/event-stream") is ("x-llamafw-event" in content)


def test_response_examples_are_valid() -> None:
    n_examples = 0
    for operation in OPERATIONS:
        for response in operation["responses"].values():
            for content in response.get("content", {}).values():
                examples = [example["value"] for example in content.get("examples", {}).values()]
                for example in [*examples, content["example"]] if "example" in content else examples:
                    validator(content["schema"]).validate(example)
                    n_examples += 1
    assert n_examples > 5


@pytest.mark.parametrize("name", DOCUMENT["components"]["responses"])
def test_error_examples_are_valid(name: str) -> None:
    content = DOCUMENT["components"]["responses"][name]["content"]["application/json"]
    validator(content["schema"]).validate(content["example"])


REQUESTS = {name: schema for name, schema in DOCUMENT["components"]["schemas"].items() if name.endswith("Request")}


def test_all_request_schemas_are_checked() -> None:
    assert len(REQUESTS) == 12


@pytest.mark.parametrize("name", REQUESTS)
def test_request_fields_have_descriptions_and_accept_null(name: str) -> None:
    schema = REQUESTS[name]
    assert schema["properties"]
    for field, part in schema["properties"].items():
        if "$ref" not in part and field != "messages":
            assert part.get("description"), field
        if field not in schema.get("required", ()):
            assert validator(part).is_valid(None), field


@pytest.mark.parametrize("name", ["CompletionRequest", "TextCompletionRequest", "ChatCompletionRequest"])
def test_generating_requests_have_sampler_fields(name: str) -> None:
    merged = merged_document(Plugins(), Settings())
    fields = merged["components"]["schemas"][name]["properties"]
    assert {"temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_penalty"} <= set(fields)
    assert validator(fields["temperature"]).is_valid(None)


@pytest.mark.parametrize(
    "name", ["CompletionRequest", "InfillRequest", "TextCompletionRequest", "ChatCompletionRequest"]
)
def test_generating_requests_have_truncate_prompt(name: str) -> None:
    assert REQUESTS[name]["properties"]["truncate_prompt"]["default"] is False
