"""``llamafw spec --diff``: what breaks clients and what does not; and this API against the released one."""

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
from llamafw.cli.changes import changes
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


def put(value: Any, *place: Any) -> Callable[[Any], None]:
    """A change: a value at a place; None removes what is there."""

    def change(document: Any) -> None:
        for name in place[:-1]:
            document = document[name]
        if value is None:
            del document[place[-1]]
        else:
            document[place[-1]] = value

    return change


BREAKING = [
    (put(None, "paths", "/b"), "GET /b: is gone"),
    (put("z", *POST, "operationId"), "the operationId a is now z"),
    (put(None, *POST, "security"), "asks for a key now"),
    (put([], "paths", "/a", "parameters"), "the query parameter n is gone"),
    (put(1, "paths", "/a", "parameters", 0, "schema", "minimum"), "the query parameter n: minimum is 1 and was 0"),
    (put(True, "paths", "/a", "parameters", 0, "required"), "the query parameter n is required now"),
    (
        put([{"name": "m", "in": "query", "required": True}], *POST, "parameters"),
        "the query parameter m is new and required",
    ),
    (put(True, *POST, "requestBody", "required"), "a request body is required now"),
    (put({"text/plain": {}}, *POST, "requestBody", "content"), "request: application/json is gone"),
    (put(None, *FIELDS, "mode"), "request.mode is gone"),
    (put(["prompt", "mode"], *REQUEST, "required"), "request.mode is required now"),
    (put(["x"], *FIELDS, "mode", "enum"), "request.mode: the value 'y' is gone"),
    (put(None, *FIELDS, "more", "properties", "deep"), "request.more.deep is gone"),
    (put("array", *FIELDS, "more", "type"), "request.more is array and was object"),
    (put({"type": "array"}, *FIELDS, "more"), "request.more is array and was object"),
    (put(5, *FIELDS, "prompt", "oneOf", 0, "maxLength"), "request.prompt(0): maxLength is 5 and was 10"),
    (put(1, *FIELDS, "prompt", "oneOf", 1, "items", "minimum"), "request.prompt(1)[]: minimum is 1 and was none"),
    (
        put([{"type": "string", "maxLength": 10}], *FIELDS, "prompt", "oneOf"),
        "request.prompt: the alternative array is gone",
    ),
    (put("^a", *FIELDS, "mode", "pattern"), "request.mode: pattern is ^a and was None"),
    (put(False, *SCHEMAS, "Options", "properties", "seed", "nullable"), "request.seed may not be null now"),
    (put("integer", *SCHEMAS, "Tree", "properties", "leaf", "type"), "request.tree.leaf is integer and was string"),
    (put(False, *REQUEST, "additionalProperties"), "request may have no other fields now"),
    (put(None, *ANSWER, "properties", "n"), "200.n is gone"),
    (put([], *ANSWER, "required"), "200.text may be missing now"),
    (put(True, *ANSWER, "properties", "text", "nullable"), "200.text may be null now"),
    (put("number", *ANSWER, "properties", "n", "type"), "200.n is number and was integer"),
    (put(None, *POST, "responses", "200"), "the answer 200 is gone"),
]
HARMLESS = [
    (put({"get": {"operationId": "c", "responses": {}}}, "paths", "/c"), "GET /c: is new"),
    (put([], "security"), None),
    (put(99, "paths", "/a", "parameters", 0, "schema", "maximum"), "the query parameter n: maximum is 99 and was 9"),
    (put({"type": "string"}, *FIELDS, "extra"), "request.extra is new"),
    (put(["x", "y", "z"], *FIELDS, "mode", "enum"), "request.mode: the value 'z' is new"),
    (put("y", *FIELDS, "mode", "default"), "request.mode is 'y' by default and was 'x'"),
    (put("number", *SCHEMAS, "Options", "properties", "seed", "type"), "request.seed is number and was integer"),
    (put(True, *FIELDS, "mode", "nullable"), "request.mode may be null now"),
    (put({"type": "string"}, *ANSWER, "properties", "extra"), "200.extra is new"),
    (put(["eos"], *ANSWER, "properties", "stop", "enum"), "200.stop: the value 'limit' is gone"),
    (put(100, *ANSWER, "properties", "p", "maximum"), "200.p: maximum is 100 and was 1"),
    (put(5, *ANSWER, "properties", "n", "maximum"), "200.n: maximum is 5 and was none"),
    (put(False, *ANSWER, "additionalProperties"), "200 may have no other fields now"),
    (put({"description": "busy"}, *POST, "responses", "429"), "the answer 429 is new"),
    (put(None, *POST, "responses", "400"), "the answer 400 is gone"),
    (put("better", *POST, "summary"), None),
    (put(True, *POST, "deprecated"), "is deprecated now"),
]


def found(change: Callable[[Any], None]) -> list[tuple[str, bool]]:
    new = deepcopy(OLD)
    change(new)
    lines = [(f"{one.place}: {one.text}", one.breaking) for one in changes(OLD, new)]
    return [(text.removeprefix("POST /a: "), breaking) for text, breaking in lines]


@pytest.mark.parametrize(("change", "text"), BREAKING, ids=[text for _, text in BREAKING])
def test_what_breaks_clients(change: Callable[[Any], None], text: str) -> None:
    assert [line for line, breaking in found(change) if breaking] == [text]


@pytest.mark.parametrize(("change", "text"), HARMLESS, ids=[str(text) for _, text in HARMLESS])
def test_what_breaks_nobody(change: Callable[[Any], None], text: str | None) -> None:
    assert found(change) == ([(text, False)] if text else [])


def test_a_document_is_what_it_was() -> None:
    document = spec.merged_document(Plugins(), Settings())
    assert changes(document, json.loads(spec.render(document, "json"))) == []


def test_what_several_operations_share_is_told_once() -> None:
    old = deepcopy(OLD)
    old["paths"]["/c"] = {"post": {**deepcopy(old["paths"]["/a"]["post"]), "operationId": "c"}}
    new = deepcopy(old)
    del new["components"]["schemas"]["Answer"]["properties"]["n"]
    assert [one.place for one in changes(old, new)] == ["POST /a"]


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_the_command_prints_and_tells_by_its_exit_code(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = spec.merged_document(Plugins(), Settings())
    file = tmp_path / "old"
    file.write_text(spec.render(document, form), "utf-8")
    assert main(["spec", "--diff", str(file)]) == 0
    assert capsys.readouterr().out == "nothing has changed\n"
    document["paths"]["/gone"] = document["paths"].pop("/health")
    file.write_text(spec.render(document, form), "utf-8")
    assert main(["spec", "--diff", str(file)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "breaking  GET /gone: is gone",
        "          GET /health: is new",
        "1 of 2 changes break clients",
    ]


def test_files_that_are_no_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("{", "[]", "a: 1", None):
        file = tmp_path / "old.yaml"
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_text(text)
        assert main(["spec", "--diff", str(file)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"llamafw: spec --diff: {file}")


def test_changes_that_break_clients_are_declared() -> None:
    """Against the document of the last release: a change that breaks clients has a line in the changelog.

    Beneath the first heading, ``- Breaking: `POST /completion` …`` names the operation. ``make released`` writes the
    document: when there is a release, and, until there is the first, whenever a change breaks it.
    """
    released = spec.read_document(RELEASED, "the released document")
    current = spec.merged_document(Plugins(), Settings())
    section = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.M)[1]
    declared = [line for line in section.splitlines() if line.startswith("- Breaking:")]
    undeclared = [
        one
        for one in changes(released, current)
        if one.breaking and not any(f"`{one.place}`" in line for line in declared)
    ]
    assert not undeclared, "say so in CHANGELOG.md, or `make released`: the docstring of this test says which"
