"""JSON Schemas in Lark grammars, which tool calls use, are enforced as strictly as other schemas."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from llamafw import GrammarContext, RequestError, ToolContext, ToolParserPlugin
from llamafw_plugins.grammars.compiler import LlguidanceCompiler
from llamafw_plugins.tool_parsers.hermes import Hermes
from llamafw_plugins.tool_parsers.llama3 import Llama3
from llamafw_plugins.tool_parsers.mistral import Mistral

Language = Callable[[str, str], Callable[[str], bool]]


def make_tool(name: str, value: Any, **more: Any) -> dict[str, Any]:
    """Return a tool with one required parameter, ``v``, of the schema ``value``."""
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
def test_embedded_schemas_are_enforced(language: Language, schema: Any, valid: str, invalid: str) -> None:
    matches = language("lark", f'start: "%json " %json {json.dumps(schema)} ";" // %json none\n')
    assert matches(f"%json {valid};")
    assert not matches(f"%json {invalid};")


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ('{"maximun": 3}', "not a keyword of JSON Schema; did you mean 'maximum'"),
        ('{"not": {"type": "null"}}', "'not' cannot be enforced"),
        ('{"$ref": "#/x"}', "does not point to a subschema"),
        ('{"properties": {"a": {"type": "strin"}}}', r"not 'strin' \(at properties.a.type in the schema\)"),
        ("false", "the schema is false"),
        ("{", "not valid JSON"),
        ('{"items":' * 5000, "nested too deeply"),
    ],
)
def test_unenforceable_embedded_schemas_are_refused(context: GrammarContext, schema: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as error:
        LlguidanceCompiler("lark", context).compile(f"start: %json {schema}\n")
    assert error.value.param is None  # a path within the Lark text would mean nothing to the client


@pytest.mark.parametrize(
    ("parser", "form"),
    [
        (Hermes(), '<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call>'),
        (Mistral(), '[TOOL_CALLS][{{"name": "{}", "arguments": {}}}]'),
        (Llama3(), '{{"name": "{}", "parameters": {}}}'),
    ],
)
def test_references_resolve_within_their_own_tool(language: Language, parser: ToolParserPlugin, form: str) -> None:
    reference = {"$ref": "#/$defs/n"}
    tools = [make_tool(name, reference, **{"$defs": {"n": {"enum": [n]}}}) for name, n in (("f", 7), ("f2", 8))]
    matches = language("lark", parser.grammar(ToolContext(tools, parallel=False)))
    allowed = [(name, n) for name in ("f", "f2") for n in (7, 8) if matches(form.format(name, f'{{"v":{n}}}'))]
    assert allowed == [("f", 7), ("f2", 8)]
