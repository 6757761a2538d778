"""Tool calls of FunctionGemma and Gemma 4: ``call:name{key:value}``, with strings between marks of their own.

Format: https://ai.google.dev/gemma/docs/functiongemma/formatting-and-best-practices, and the chat template of Gemma 4.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llamafw import RequestError, ToolContext, ToolParser
from llamafw_plugins.tool_parsers.call_parser import CallParser, parse_json
from llamafw_plugins.tool_parsers.cursor import NotACall, Waiting
from llamafw_plugins.tool_parsers.hermes import Hermes, Tool
from llamafw_plugins.tool_parsers.inline import named_arguments
from llamafw_plugins.tool_parsers.json_calls import arguments_schema, literal, repeat
from llamafw_plugins.tool_parsers.python_calls import sequence
from llamafw_plugins.tool_parsers.schemas import Parameter, terminal_lines, text_before

MAX_DEPTH = 64  # of values within values


class Gemma4(Hermes):
    """The format of Gemma 4.

    Implements `llamafw.ToolParserPlugin`.
    """

    opening, closing, quote = "<|tool_call>", "<tool_call|>", '<|"|>'
    marks = (opening, closing, quote)

    def matches(self, template: str, call: str) -> bool:
        """Return whether models with this chat template use this format."""
        return f"{self.opening}call:" in call

    def create(self, context: ToolContext) -> ToolParser:
        """Return a parser for one response."""
        return GemmaParser(context, self.triggers(context), self)

    def triggers(self, context: ToolContext) -> Sequence[str]:
        """Return the strings that begin calls in a response."""
        return (self.opening,)

    def grammar(self, context: ToolContext) -> str:
        """Return a Lark grammar that allows calls and nothing else."""
        rules = _GemmaRules(context, self)
        calls = " | ".join(f"({rules.call(tool)})" for tool in context.tools)
        call = f"{context.mark(self.opening)} ({calls}) {context.mark(self.closing)}"
        return f"start: {repeat(context, 'call')}\ncall: {call}\n{rules.lines()}"

    def write_call(self, name: str, arguments: Any) -> str:
        """Return the text of a call."""
        return f"{self.opening}call:{name}{self._write_value(named_arguments(arguments))}{self.closing}"

    def _write_value(self, value: Any) -> str:
        if isinstance(value, str):
            return f"{self.quote}{value}{self.quote}"
        if isinstance(value, Mapping):
            return f"{{{','.join(f'{key}:{self._write_value(item)}' for key, item in value.items())}}}"
        if isinstance(value, list):
            return f"[{','.join(map(self._write_value, value))}]"
        return json.dumps(value)


class FunctionGemma(Gemma4):
    """The format of FunctionGemma.

    Implements `llamafw.ToolParserPlugin`.
    """

    opening, closing, quote = "<start_function_call>", "<end_function_call>", "<escape>"
    marks = (opening, closing, quote)


class GemmaParser(CallParser):
    """Reads one response."""

    def __init__(self, context: ToolContext, triggers: Sequence[str], format: Gemma4) -> None:
        self.format = format
        self.openings = (format.opening,)  # type: ignore[misc]  # per format
        super().__init__(context, triggers)

    def read_calls(self) -> Waiting[None]:
        """Read one call."""
        cursor = self.cursor
        yield from cursor.expect(self.format.opening)
        yield from cursor.skip()
        yield from cursor.expect("call:")
        name = yield from cursor.name()
        yield from cursor.skip()
        if (yield from cursor.peek()) != "{":
            raise NotACall
        self.begin_call(name)
        yield from self._read_members(0)
        self.end_call()
        yield from cursor.close(self.format.closing)

    def _read_value(self, depth: int) -> Waiting[None]:
        """Read a value, and pass it on as JSON."""
        cursor = self.cursor
        if depth > MAX_DEPTH:
            raise NotACall
        yield from cursor.skip()
        if (yield from cursor.find(self.format.quote)):
            yield from self._read_text(self.format.quote)
        elif (character := (yield from cursor.peek())) == "{":
            yield from self._read_members(depth)
        elif character == "[":
            yield from self._read_items(depth)
        elif character == '"':
            text = yield from cursor.json()
            parse_json(text)
            self.add_arguments(text)
        else:
            self.add_arguments(_scalar((yield from cursor.name())))

    def _read_text(self, end: str) -> Waiting[None]:
        self.add_arguments('"')
        yield from self.cursor.until(
            end, emit=lambda piece: self.add_arguments(json.dumps(piece, ensure_ascii=False)[1:-1])
        )
        self.add_arguments('"')

    def _read_members(self, depth: int) -> Waiting[None]:
        """Read an object."""
        cursor, separator, names = self.cursor, "{", set[str]()
        cursor.at += 1
        yield from cursor.skip()
        closed = bool((yield from cursor.find("}")))
        while not closed:
            quote = yield from cursor.find(self.format.quote, '"')
            key, _ = (yield from cursor.until(quote)) if quote else ((yield from cursor.until(":"))[0].strip(), "")
            if quote:
                yield from cursor.skip()
                yield from cursor.expect(":")
            if key in names or not key:
                raise NotACall
            names.add(key)
            self.add_arguments(f"{separator}{json.dumps(key, ensure_ascii=False)}: ")
            separator = ", "
            yield from self._read_value(depth + 1)
            yield from cursor.skip()
            closed = (yield from cursor.expect(",", "}")) == "}"
            yield from cursor.skip() if not closed else ()
        self.add_arguments("{}" if separator == "{" else "}")

    def _read_items(self, depth: int) -> Waiting[None]:
        """Read an array."""
        cursor = self.cursor
        cursor.at += 1
        self.add_arguments("[")
        yield from cursor.skip()
        closed = bool((yield from cursor.find("]")))
        while not closed:
            yield from self._read_value(depth + 1)
            yield from cursor.skip()
            closed = (yield from cursor.expect(",", "]")) == "]"
            self.add_arguments("" if closed else ", ")
        self.add_arguments("]")


class _GemmaRules:
    """Builds the rules of a grammar.

    Schemas of values within values are followed as far as they consist of types, properties, items and lists of values.
    """

    def __init__(self, context: ToolContext, format: Gemma4) -> None:
        self.context, self.format = context, format
        self.terminals: list[str] = []
        self.any_value = False

    def call(self, tool: Tool) -> str:
        """Return the Lark expression of a call of one tool."""
        name = literal(f"call:{tool['function']['name']}")
        return f"{name} {self.object(arguments_schema(tool), arguments_schema(tool), 0)}"

    def lines(self) -> str:
        """Return the lines of the rules and terminals that the calls use."""
        quote = self.context.mark(self.format.quote)
        value = (
            'any_value: text | number | "true" | "false" | "null" | any_object | any_array\n'
            'any_array: "[" (any_value ("," any_value)*)? "]"\n'
            f'any_object: "{{" (any_member ("," any_member)*)? "}}"\nany_member: /[a-zA-Z0-9_]+/ ":" any_value\n'
            "number: /-?(0|[1-9][0-9]{0,14})(\\.[0-9]{1,14})?/\n"
            f"text: {quote} {text_before(self.context, self.format.quote, self.terminals)}\n"
            if self.any_value
            else ""
        )
        return value + terminal_lines(self.terminals)

    def value(self, schema: Any, root: Mapping[str, Any], depth: int) -> str:
        """Return the Lark expression of a value."""
        parameter = Parameter(schema, root)
        schema = parameter.schema if isinstance(parameter.schema, dict) else {}
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if values is not None:
            return f"({' | '.join(self.constant(value) for value in values)})"
        if depth > MAX_DEPTH or {"anyOf", "oneOf", "allOf"} & set(schema):
            self.any_value = True
            return "any_value"
        kinds = [self.of_type(kind, schema, root, depth) for kind in sorted(parameter.types - {"integer"})]
        kinds += [f"%json {json.dumps({'type': 'integer'} | _bounds(schema))}"] if "integer" in parameter.types else []
        return f"({' | '.join(kinds)})"

    def of_type(self, kind: str, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> str:
        """Return the Lark expression of the values of one type."""
        if kind == "string":
            quote = self.format.quote
            return f"{self.context.mark(quote)} {text_before(self.context, quote, self.terminals, schema)}"
        if kind == "array":
            item = self.value(schema.get("items", True), root, depth + 1)
            return f'"[" ({item} ("," {item})*)? "]"'
        if kind == "object":
            return self.object(schema, root, depth)
        return f"%json {json.dumps({'type': kind} | _bounds(schema))}"

    def object(self, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> str:
        """Return the Lark expression of an object."""
        properties = schema.get("properties") or {}
        if not properties:
            self.any_value = True
            return "any_object"
        required = [name for name in schema.get("required") or () if name in properties]
        names = sorted(properties, key=lambda name: name not in required)
        members = [f"{literal(name + ':')} {self.value(properties[name], root, depth + 1)}" for name in names]
        return f'"{{" {sequence(members, len(required), ",")} "}}"'

    def constant(self, value: Any) -> str:
        """Return the Lark expression of one value."""
        if isinstance(value, str):
            quote = self.context.mark(self.format.quote)
            return " ".join([quote, *([literal(value)] if value else []), quote])
        if isinstance(value, list | dict):
            raise RequestError("an enum of arrays or objects cannot be written in this model's format", param="tools")
        return literal(json.dumps(value))


def _bounds(schema: Mapping[str, Any]) -> dict[str, Any]:
    names = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
    return {name: schema[name] for name in names if name in schema}


def _scalar(text: str) -> str:
    """Return a number, boolean or null as JSON, from the text of it."""
    constant = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
    if text in constant:
        return constant[text]
    if not isinstance(parse_json(text), int | float):
        raise NotACall
    return text
