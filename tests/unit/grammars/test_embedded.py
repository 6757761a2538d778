"""Schemas within Lark, as grammars of tool calls have them, are enforced or refused as all others."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from llamafw import RequestError
from llamafw_plugins.grammars.compiler import Compiler
from llamafw_plugins.tool_parsers.hermes import Hermes
from llamafw_plugins.tool_parsers.llama3 import Llama3
from llamafw_plugins.tool_parsers.mistral import Mistral

Language = Callable[[str, str], Callable[[str], bool]]


def tool(name: str, value: Any, **more: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"v": value}, "required": ["v"], "additionalProperties": False, **more}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, "0.25", "0"),
        ({"type": "string", "pattern": "^\\d$"}, '"7"', '"\u0667"'),
        ({"oneOf": [{"type": "integer"}, {"type": "null"}]}, "null", '"x"'),
        ({"type": "string", "pattern": "b"}, '"abc"', '"ac"'),
    ],
)
def test_a_schema_is_as_strict_as_elsewhere(language: Language, schema: Any, valid: str, invalid: str) -> None:
    matches = language("lark", f'start: "%json " %json {json.dumps(schema)} ";" // %json none\n')
    assert matches(f"%json {valid};")
    assert not matches(f"%json {invalid};")


@pytest.mark.parametrize(
    "schema", ['{"maximun": 3}', '{"not": {}}', '{"$ref": "#/x"}', "false", "{", '{"items":' * 5000]
)
def test_what_cannot_be_enforced_is_refused(context: Any, schema: str) -> None:
    with pytest.raises(RequestError):
        Compiler("lark", context).compile(f"start: %json {schema}\n")


@pytest.mark.parametrize(
    ("parser", "form"),
    [
        (Hermes(), '<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call>'),
        (Mistral(), '[{{"name": "{}", "arguments": {}}}]'),
        (Llama3(), '{{"name": "{}", "parameters": {}}}'),
    ],
)
def test_references_in_parameters_are_their_own(language: Language, parser: Any, form: str) -> None:
    reference = {"$ref": "#/$defs/n"}
    tools = [tool(name, reference, **{"$defs": {"n": {"enum": [n]}}}) for name, n in (("f", 7), ("f2", 8))]
    matches = language("lark", parser.grammar(tools, parallel=False))
    assert [matches(form.format(name, f'{{"v":{n}}}')) for name in ("f", "f2") for n in (7, 8)] == [1, 0, 0, 1]
