"""openapi.yaml itself: complete, bounded, with examples that are valid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from llamafw import Settings
from llamafw.plugins import Plugins
from llamafw.spec import as_json_schema, load_document, merged_document, operations

DOCUMENT = load_document()


def walk(thing: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield every mapping in the document with its place."""
    if isinstance(thing, dict):
        yield place, thing
        for name, part in thing.items():
            yield from walk(part, (*place, name))
    elif isinstance(thing, list):
        for i, part in enumerate(thing):
            yield from walk(part, (*place, str(i)))


def validator(schema: Any) -> jsonschema_rs.Draft4Validator:
    root = {
        "allOf": [as_json_schema(schema)],
        "components": {"schemas": as_json_schema(DOCUMENT["components"]["schemas"])},
    }
    return jsonschema_rs.Draft4Validator(root)


def test_every_integer_has_bounds() -> None:
    for place, part in walk(DOCUMENT):
        if part.get("type") == "integer":
            assert {"minimum", "maximum"} <= set(part), place


def test_every_reference_leads_somewhere() -> None:
    for place, part in walk(DOCUMENT):
        if "$ref" in part:
            target = DOCUMENT
            for name in part["$ref"].removeprefix("#/").split("/"):
                target = target[name]
            assert len(part) == 1, place  # OpenAPI 3.0 ignores what stands beside a reference


def test_every_schema_is_used_or_is_for_plugins() -> None:
    used = {part["$ref"].rpartition("/")[2] for _, part in walk(DOCUMENT) if "$ref" in part}
    assert set(DOCUMENT["components"]["schemas"]) - used == {"GenerationOptions", "ChatOptions"}


@pytest.mark.parametrize("operation", [one for _, _, one in operations(DOCUMENT)], ids=lambda one: one["operationId"])
def test_operations(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    assert operation["summary"]
    assert {"200", "500"} <= set(responses)
    if operation.get("security") != []:
        assert "401" in responses
    if "requestBody" in operation:
        assert {"400", "413", "503"} <= set(responses)
        content = operation["requestBody"]["content"]["application/json"]
        for name, example in content["examples"].items():
            assert validator(content["schema"]).is_valid(example["value"]), name
    for response in responses.values():
        for kind, content in response.get("content", {}).items():
            examples = [example["value"] for example in content.get("examples", {}).values()]
            for example in [*examples, content["example"]] if "example" in content else examples:
                validator(content["schema"]).validate(example)
            assert (kind == "text/event-stream") is ("x-llamafw-event" in content)


def test_examples_of_errors_are_errors() -> None:
    for response in DOCUMENT["components"]["responses"].values():
        content = response["content"]["application/json"]
        validator(content["schema"]).validate(content["example"])


def test_request_fields_are_described_and_may_be_null() -> None:
    requests = {name: schema for name, schema in DOCUMENT["components"]["schemas"].items() if name.endswith("Request")}
    assert len(requests) == 12
    for name, schema in requests.items():
        for field, part in schema["properties"].items():
            if "$ref" not in part and field != "messages":
                assert part.get("description"), (name, field)
            if field not in schema.get("required", ()):
                assert validator(part).is_valid(None), (name, field)


def test_samplers_fields_are_in_all_that_generates() -> None:
    merged = merged_document(Plugins(), Settings())
    for name in ("CompletionRequest", "TextCompletionRequest", "ChatCompletionRequest"):
        fields = merged["components"]["schemas"][name]["properties"]
        assert {"temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_penalty"} <= set(fields)
        assert validator(fields["temperature"]).is_valid(None)
