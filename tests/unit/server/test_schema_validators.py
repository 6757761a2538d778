"""Validators of the API document's schemas."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest

from llamafw import spec
from llamafw.plugins import Plugins
from llamafw.server.schema import Schemas
from llamafw.settings import Settings
from llamafw.spec.document import merged_document

LEAF = {"anyOf": [{"$ref": "#/components/schemas/Leaf"}, {"type": "integer"}]}
DOCUMENT: dict[str, Any] = {
    "components": {
        "schemas": {
            "Tree": {"type": "object", "properties": {"left": {"$ref": "#/components/schemas/Tree"}, "leaf": LEAF}},
            "Leaf": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
            "Unused": {"type": "string"},
        }
    }
}
TREE = {"type": "array", "items": {"$ref": "#/components/schemas/Tree"}}
TREES: list[tuple[Any, bool]] = [
    ([], True),
    ([{"left": {"left": {"leaf": 1}}}], True),
    ([{"left": {"left": {"leaf": {"name": "x"}}}}], True),
    ([{"left": {"left": {"leaf": {"name": 1}}}}], False),
    ([{"left": {"left": 1}}], False),
]


@pytest.mark.parametrize(("value", "is_valid"), TREES)
def test_references_are_followed(value: Any, is_valid: bool) -> None:
    assert Schemas(DOCUMENT).validator(TREE).is_valid(value) == is_valid


def test_validators_have_only_the_schemas_that_are_referred_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each validator keeps a copy of what it gets."""
    roots: list[dict[str, Any]] = []
    compile_validator = jsonschema_rs.Draft4Validator

    def record(root: dict[str, Any], **options: Any) -> jsonschema_rs.Draft4Validator:
        roots.append(root)
        return compile_validator(root, **options)

    monkeypatch.setattr(jsonschema_rs, "Draft4Validator", record)
    schemas = Schemas(DOCUMENT)
    schemas.validator(TREE)
    schemas.validator({"type": "integer"})
    assert [set(root["components"]["schemas"]) for root in roots] == [{"Tree", "Leaf"}, set()]


def test_reference_to_a_missing_schema_is_an_error() -> None:
    with pytest.raises(Exception, match="Missing"):  # jsonschema-rs has no class of its own for it
        Schemas(DOCUMENT).validator({"$ref": "#/components/schemas/Missing"})


def test_validators_of_all_operations_are_small() -> None:
    document = merged_document(Plugins(), Settings())
    schemas = Schemas(document)
    bodies = [
        schemas.convert(content["schema"])
        for _, _, operation in spec.operations(document)
        if "requestBody" in operation
        and (content := schemas.raw(operation["requestBody"])["content"].get("application/json")) is not None
    ]
    assert len(bodies) > 20
    n_needed = sum(len(json.dumps(schemas._needed(body))) for body in bodies)
    n_all = len(json.dumps(document["components"]["schemas"]))
    assert n_needed < n_all * len(bodies) / 4
