"""``llamafw spec --diff`` finds the changes that break clients; those since the last release are in the changelog."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamafw import Settings, spec
from llamafw.cli.changes import compare
from llamafw.cli.main import main
from llamafw.plugins import Plugins

ROOT = Path(__file__).parents[3]
RELEASED = ROOT / "tests/contract/released.yaml"

OLD = yaml.safe_load("""
openapi: 3.0.3
info: {title: t, version: "1"}
security: [{key: []}]
paths:
  /a:
    parameters:
      - {name: n, in: query, schema: {type: integer, minimum: 0, maximum: 9}}
    post:
      operationId: a
      security: []
      requestBody: {content: {application/json: {schema: {$ref: '#/components/schemas/Request'}}}}
      responses:
        "200": {description: ok, content: {application/json: {schema: {$ref: '#/components/schemas/Answer'}}}}
        "400": {$ref: '#/components/responses/Bad'}
  /b:
    get:
      operationId: b
      responses: {"200": {description: ok}}
components:
  responses:
    Bad: {description: bad, content: {application/json: {schema: {type: object}}}}
  schemas:
    Request:
      allOf:
        - {$ref: '#/components/schemas/Options'}
        - type: object
          required: [prompt]
          properties:
            prompt:
              oneOf: [{type: string, maxLength: 10}, {type: array, maxItems: 5, items: {type: integer}}]
            mode: {type: string, enum: [x, y], default: x}
            more: {type: object, properties: {deep: {type: boolean}}}
            tree: {$ref: '#/components/schemas/Tree'}
    Options:
      type: object
      properties: {seed: {type: integer, nullable: true}}
    Tree: {type: object, properties: {below: {$ref: '#/components/schemas/Tree'}, leaf: {type: string}}}
    Answer:
      type: object
      required: [text]
      properties:
        text: {type: string}
        stop: {type: string, enum: [eos, limit]}
        n: {type: integer}
        p: {type: number, maximum: 1}
""")
SCHEMAS = ("components", "schemas")
REQUEST = (*SCHEMAS, "Request", "allOf", 1)
FIELDS = (*REQUEST, "properties")
ANSWER = (*SCHEMAS, "Answer")
POST = ("paths", "/a", "post")


Edit = Callable[[Any], None]


def put(value: Any, *path: Any) -> Edit:
    """Return a function that puts a value at a path of a document; None removes the value there."""

    def edit(document: Any) -> None:
        for name in path[:-1]:
            document = document[name]
        if value is None:
            del document[path[-1]]
        else:
            document[path[-1]] = value

    return edit


BREAKING = [
    (put(None, "paths", "/b"), "GET /b: removed"),
    (put("z", *POST, "operationId"), "operationId changed from a to z"),
    (put(None, *POST, "security"), "now requires an API key"),
    (put([], "paths", "/a", "parameters"), "query parameter n: removed"),
    (put(1, "paths", "/a", "parameters", 0, "schema", "minimum"), "query parameter n: minimum changed from 0 to 1"),
    (put(True, "paths", "/a", "parameters", 0, "required"), "query parameter n: now required"),
    (
        put([{"name": "m", "in": "query", "required": True}], *POST, "parameters"),
        "query parameter m: added and required",
    ),
    (put(True, *POST, "requestBody", "required"), "request body: now required"),
    (put({"text/plain": {}}, *POST, "requestBody", "content"), "request: application/json removed"),
    (put(None, *FIELDS, "mode"), "request.mode: removed"),
    (put(["prompt", "mode"], *REQUEST, "required"), "request.mode: now required"),
    (put(["x"], *FIELDS, "mode", "enum"), "request.mode: value 'y' removed"),
    (put(None, *FIELDS, "more", "properties", "deep"), "request.more.deep: removed"),
    (put("array", *FIELDS, "more", "type"), "request.more: type changed from object to array"),
    (put({"type": "array"}, *FIELDS, "more"), "request.more: type changed from object to array"),
    (put(5, *FIELDS, "prompt", "oneOf", 0, "maxLength"), "request.prompt(0): maxLength changed from 10 to 5"),
    (put(1, *FIELDS, "prompt", "oneOf", 1, "items", "minimum"), "request.prompt(1)[]: minimum changed from none to 1"),
    (
        put([{"type": "string", "maxLength": 10}], *FIELDS, "prompt", "oneOf"),
        "request.prompt: alternative array removed",
    ),
    (put("^a", *FIELDS, "mode", "pattern"), "request.mode: pattern changed from None to ^a"),
    (put(False, *SCHEMAS, "Options", "properties", "seed", "nullable"), "request.seed: may no longer be null"),
    (
        put("integer", *SCHEMAS, "Tree", "properties", "leaf", "type"),
        "request.tree.leaf: type changed from string to integer",
    ),
    (put(False, *REQUEST, "additionalProperties"), "request: other fields are no longer allowed"),
    (put(None, *ANSWER, "properties", "n"), "200.n: removed"),
    (put([], *ANSWER, "required"), "200.text: may now be missing"),
    (put(True, *ANSWER, "properties", "text", "nullable"), "200.text: may now be null"),
    (put("number", *ANSWER, "properties", "n", "type"), "200.n: type changed from integer to number"),
    (put(None, *POST, "responses", "200"), "response 200: removed"),
]
HARMLESS = [
    (put({"get": {"operationId": "c", "responses": {}}}, "paths", "/c"), "GET /c: added"),
    (put([], "security"), None),
    (put(99, "paths", "/a", "parameters", 0, "schema", "maximum"), "query parameter n: maximum changed from 9 to 99"),
    (put({"type": "string"}, *FIELDS, "extra"), "request.extra: added"),
    (put(["x", "y", "z"], *FIELDS, "mode", "enum"), "request.mode: value 'z' added"),
    (put("y", *FIELDS, "mode", "default"), "request.mode: default changed from 'x' to 'y'"),
    (
        put("number", *SCHEMAS, "Options", "properties", "seed", "type"),
        "request.seed: type changed from integer to number",
    ),
    (put(True, *FIELDS, "mode", "nullable"), "request.mode: may now be null"),
    (put({"type": "string"}, *ANSWER, "properties", "extra"), "200.extra: added"),
    (put(["eos"], *ANSWER, "properties", "stop", "enum"), "200.stop: value 'limit' removed"),
    (put(100, *ANSWER, "properties", "p", "maximum"), "200.p: maximum changed from 1 to 100"),
    (put(5, *ANSWER, "properties", "n", "maximum"), "200.n: maximum changed from none to 5"),
    (put(False, *ANSWER, "additionalProperties"), "200: other fields are no longer allowed"),
    (put({"description": "busy"}, *POST, "responses", "429"), "response 429: added"),
    (put(None, *POST, "responses", "400"), "response 400: removed"),
    (put("better", *POST, "summary"), None),
    (put(True, *POST, "deprecated"), "is now deprecated"),
]


def changes_after(edit: Edit) -> list[tuple[str, bool]]:
    """Return the changes that an edit of `OLD` makes, as text and whether they break clients."""
    new = deepcopy(OLD)
    edit(new)
    lines = [(f"{change.place}: {change.text}", change.breaking) for change in compare(OLD, new)]
    return [(text.removeprefix("POST /a: "), breaking) for text, breaking in lines]


@pytest.mark.parametrize(("edit", "text"), BREAKING, ids=[text for _, text in BREAKING])
def test_a_breaking_change_is_found(edit: Edit, text: str) -> None:
    assert [line for line, breaking in changes_after(edit) if breaking] == [text]


@pytest.mark.parametrize(("edit", "text"), HARMLESS, ids=[str(text) for _, text in HARMLESS])
def test_a_harmless_change_is_not_breaking(edit: Edit, text: str | None) -> None:
    assert changes_after(edit) == ([(text, False)] if text else [])


def test_a_document_does_not_differ_from_itself() -> None:
    document = spec.merged_document(Plugins(), Settings())
    assert compare(document, json.loads(spec.render(document, "json"))) == []


def test_a_change_in_a_shared_schema_is_listed_once() -> None:
    old = deepcopy(OLD)
    old["paths"]["/c"] = {"post": {**deepcopy(old["paths"]["/a"]["post"]), "operationId": "c"}}
    new = deepcopy(old)
    del new["components"]["schemas"]["Answer"]["properties"]["n"]
    assert [change.place for change in compare(old, new)] == ["POST /a"]


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_spec_diff_prints_changes_and_sets_the_exit_code(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = spec.merged_document(Plugins(), Settings())
    file = tmp_path / "old"
    file.write_text(spec.render(document, form), "utf-8")
    assert main(["spec", "--diff", str(file)]) == 0
    assert capsys.readouterr().out == "no changes\n"
    document["paths"]["/gone"] = document["paths"].pop("/health")
    file.write_text(spec.render(document, form), "utf-8")
    assert main(["spec", "--diff", str(file)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "breaking  GET /gone: removed",
        "          GET /health: added",
        "1 of 2 changes break clients",
    ]


@pytest.mark.parametrize("text", ["{", "[]", "a: 1", None], ids=str)
def test_spec_diff_refuses_a_file_without_a_document(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "old.yaml"
    if text is not None:
        file.write_text(text)
    assert main(["spec", "--diff", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"llamafw: spec --diff: {file}")


def test_breaking_changes_are_declared_in_the_changelog() -> None:
    """A change that breaks clients of the released document has a line in the changelog.

    The line is below the first heading and names the operation: ``- Breaking: `POST /completion` …``. ``make released``
    writes the released document, for every release; before the first release, whenever a change breaks it.
    """
    released = spec.read_document(RELEASED, "the released document")
    current = spec.merged_document(Plugins(), Settings())
    section = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.M)[1]
    declared = [line for line in section.splitlines() if line.startswith("- Breaking:")]
    undeclared = [
        change
        for change in compare(released, current)
        if change.breaking and not any(f"`{change.place}`" in line for line in declared)
    ]
    assert not undeclared, "declare them in CHANGELOG.md or run `make released`: see the docstring of this test"
