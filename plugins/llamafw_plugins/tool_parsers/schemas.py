"""What the formats without JSON need to know about the parameters of tools: which values are text.

In such formats a text stands without quotes, and all other values as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from llamafw import RequestError, ToolContext
from llamafw_plugins.grammars.pattern import PatternError, to_rust
from llamafw_plugins.tool_parsers.call_parser import parse_json
from llamafw_plugins.tool_parsers.cursor import NotACall
from llamafw_plugins.tool_parsers.json_calls import arguments_schema, literal
from llamafw_plugins.tool_parsers.python_values import python_to_json

PROPERTY_DEFINITIONS = ("$defs", "definitions")
ALL_TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
MAX_DEPTH = 8  # of references

Tool = Mapping[str, Any]


class Parameter:
    """One parameter of a tool.

    Parameters
    ----------
    schema : mapping or bool
        The schema of the parameter.
    root : mapping
        The schema of all arguments, in which references are resolved.
    """

    def __init__(self, schema: Any, root: Mapping[str, Any]) -> None:
        self.schema = _resolve(schema, root)
        self._root = root
        self.types = _types(self.schema, root)

    def to_json(self, text: str) -> str:
        """Return a value in JSON, from the text that stands for it in a response."""
        if self.types == {"string"}:
            return json.dumps(text, ensure_ascii=False)
        try:
            value = parse_json(text.strip())
        except NotACall:
            return self._python_to_json(text)
        if isinstance(value, str) and "string" in self.types:
            return json.dumps(text, ensure_ascii=False)  # the quotes are part of the text
        return text.strip()

    @property
    def values(self) -> Sequence[Any] | None:
        """The values that are allowed, if the schema lists them."""
        schema = self.schema if isinstance(self.schema, dict) else {}
        return [schema["const"]] if "const" in schema else schema.get("enum")

    def json_rule(self, end: str) -> str:
        """Return a Lark expression for a value in JSON and the text ``end`` after it."""
        return f"%json {json.dumps(with_definitions(self.schema, self._root))} {literal(end)}"

    def _python_to_json(self, text: str) -> str:
        """Return a value that is not JSON: some models write Python's ``True`` or ``{'a': None}``."""
        if "string" not in self.types:
            with suppress(NotACall):
                return python_to_json(text)
        return json.dumps(text, ensure_ascii=False)

    def rule(self, end: str, name: str, terminals: list[str], *, strict: bool = False) -> str:
        """Return a Lark expression for the text of a value and the text ``end`` after it.

        Parameters
        ----------
        end : str
            Does not occur in texts.
        name : str
            The name of the parameter, for error messages.
        terminals : list of str
            Terminals of the grammar; those that the expression needs are added.
        strict : bool
            The client asks for the schema to be enforced.

        Raises
        ------
        RequestError
            The schema limits texts in a way that this format cannot express, and ``strict`` asks for it.
        """
        if "string" not in self.types:
            return self.json_rule(end)

        schema = self.schema if isinstance(self.schema, dict) else {}
        if self.values is not None:
            texts = [value if isinstance(value, str) else json.dumps(value) for value in self.values]
            return f"({' | '.join(literal(text + end) for text in texts)})"
        limits = {"pattern", "format", "minLength", "maxLength", "allOf", "anyOf", "oneOf", "not", "if"} & set(schema)
        if strict and limits - {"pattern", "minLength", "maxLength"} and self.types == {"string"}:
            keyword = sorted(limits)[0]
            message = f"{keyword!r} of the parameter {name!r} cannot be enforced in this model's format of tool calls"
            raise RequestError(message, param="tools")
        return add_terminal(terminals, _text_terminal(schema, end))


def with_definitions(schema: Any, root: Mapping[str, Any]) -> Any:
    """Return the schema of a parameter with the definitions of ``root``, so that it can be used alone."""
    definitions = {key: root[key] for key in PROPERTY_DEFINITIONS if key in root}
    return {**schema, **definitions} if isinstance(schema, dict) else schema


def parameters_of(tool: Tool) -> tuple[dict[str, Parameter], frozenset[str]]:
    """Return the parameters of a tool, by name, and the names of those that are required."""
    schema = arguments_schema(tool)
    properties = schema.get("properties") or {}
    names = frozenset(name for name in schema.get("required") or () if name in properties)
    return {name: Parameter(value, schema) for name, value in properties.items()}, names


def add_terminal(terminals: list[str], expression: str) -> str:
    """Add a terminal to those of a grammar, unless it is one of them, and return its name."""
    if expression not in terminals:
        terminals.append(expression)
    return f"TEXT{terminals.index(expression)}"


def terminal_lines(terminals: list[str]) -> str:
    """Return the lines of a grammar that define terminals."""
    return "".join(f"TEXT{i}: {expression}\n" for i, expression in enumerate(terminals))


def any_text(end: str) -> str:
    """Return a Lark terminal for any text with ``end`` after it."""
    return _text_terminal({}, end)


def text_before(context: ToolContext, mark: str, terminals: list[str], schema: Mapping[str, Any] | None = None) -> str:
    """Return a Lark expression for a text, any or one of a schema, and a string of the format after it."""
    if mark not in context.control_tokens:
        return add_terminal(terminals, _text_terminal(schema or {}, mark))
    patterns = _text_patterns(schema or {})
    text = add_terminal(terminals, " & ".join([*(f"/{pattern}/" for pattern in patterns), "/(?s:.+)/"]))
    may_be_empty = not (schema or {}).get("minLength") and "pattern" not in (schema or {})
    return f"{f'({text})?' if may_be_empty else text} {context.mark(mark)}"


def _text_patterns(schema: Mapping[str, Any]) -> list[str]:
    """Return regular expressions that the texts of a schema match, for use between slashes."""
    patterns = [f"(?s:.{{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}})"]
    if "pattern" in schema:
        try:
            patterns.append(to_rust(schema["pattern"]))
        except PatternError:
            raise RequestError(f"the pattern {schema['pattern']!r:.100} cannot be enforced", param="tools") from None
    return [pattern.replace("/", "\\/") for pattern in patterns]


def _text_terminal(schema: Mapping[str, Any], end: str) -> str:
    """Return a Lark terminal for a text of a schema with ``end`` after it, which the text itself does not contain."""
    escaped = "".join(f"\\x{{{ord(character):x}}}" for character in end)
    texts = (f"/({pattern}){escaped}/" for pattern in _text_patterns(schema))
    return f"{' & '.join(texts)} & ~/(?s:.*){escaped}(?s:.+)/"


def _resolve(schema: Any, root: Mapping[str, Any]) -> Any:
    for _ in range(MAX_DEPTH):
        if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
            break
        target: Any = root
        for part in schema["$ref"].removeprefix("#").split("/")[1:]:
            target = target.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(target, dict) else None
        if target is None:
            break
        schema = target
    return schema


def _types(schema: Any, root: Mapping[str, Any], depth: int = 0) -> frozenset[str]:
    """Return the types that values may have."""
    schema = _resolve(schema, root)
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return ALL_TYPES
    if "const" in schema or isinstance(schema.get("enum"), list):
        values = [schema["const"]] if "const" in schema else schema["enum"]
        return frozenset(_type_of(value) for value in values)
    given = schema.get("type", ALL_TYPES)
    types = frozenset([given] if isinstance(given, str) else given) & ALL_TYPES or ALL_TYPES
    for keyword in ("anyOf", "oneOf"):
        if isinstance(schema.get(keyword), list):
            types &= frozenset().union(*(_types(branch, root, depth + 1) for branch in schema[keyword]))
    for branch in schema.get("allOf", ()) if isinstance(schema.get("allOf"), list) else ():
        types &= _types(branch, root, depth + 1)
    return types


def _type_of(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, int | float):
        return "integer" if isinstance(value, int) else "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"
