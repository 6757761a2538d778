"""A kind of tool call format: each argument stands between tags of its own, and texts stand there without quotes.

Independent of the tags of any model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from llamafw import ToolContext, ToolParser
from llamafw_plugins.tool_parsers.call_parser import CallParser
from llamafw_plugins.tool_parsers.cursor import NotACall, Waiting
from llamafw_plugins.tool_parsers.hermes import Hermes, Tool
from llamafw_plugins.tool_parsers.inline import named_arguments
from llamafw_plugins.tool_parsers.json_calls import literal, repeat
from llamafw_plugins.tool_parsers.python_calls import sequence
from llamafw_plugins.tool_parsers.schemas import (
    ALL_TYPES,
    Parameter,
    add_terminal,
    any_text,
    parameters_of,
    terminal_lines,
)

_BETWEEN_TAGS = re.compile(r"\n|(?<=>)(?=<)")
_ENDS_OF_NAMES = re.compile(r"[<>\"\n]")
_TEXT = Parameter({"type": "string"}, {})
_ANY, _NO_TEXT = Parameter(True, {}), Parameter({"type": sorted(ALL_TYPES - {"string"})}, {})


@dataclass(frozen=True, slots=True)
class XmlSyntax:
    """The tags of a format, with the white space around them as the model writes it.

    A response has ``begin``, calls, and ``end``. A call has ``call``, its name, ``after_name``, arguments, and
    ``call_end``. An argument has ``key``, its name, ``value``, its value, and ``value_end``. If the format marks texts,
    they have ``text_value`` instead of ``value``.
    """

    call: str
    after_name: str
    key: str
    value: str
    value_end: str
    call_end: str
    begin: str = ""
    end: str = ""
    between: str = ""  # between two calls
    between_arguments: str = ""
    text_value: str = ""

    @property
    def opening(self) -> str:
        """The string that begins calls."""
        return (self.begin or self.call).partition("\n")[0]


class XmlFormat(Hermes):
    """A format with a tag for each argument.

    Implements `llamafw.ToolParserPlugin`.
    """

    syntax: ClassVar[XmlSyntax]

    def matches(self, template: str, call: str) -> bool:
        """Return whether models with this chat template use this format."""
        return self.syntax.opening in call and self.syntax.key.strip() in call

    def create(self, context: ToolContext) -> ToolParser:
        """Return a parser for one response."""
        return XmlParser(context, self.triggers(context), self.syntax)

    def triggers(self, context: ToolContext) -> Sequence[str]:
        """Return the strings that begin calls in a response."""
        return (self.syntax.opening,)

    def grammar(self, context: ToolContext) -> str:
        """Return a Lark grammar that allows calls and nothing else."""
        syntax, terminals = self.syntax, list[str]()
        calls = " | ".join(f"({self._call_rule(context, tool, terminals)})" for tool in context.tools)
        begin = f"{self._text(context, syntax.begin)} " if syntax.begin else ""
        end = f" {self._text(context, syntax.end)}" if syntax.end else ""
        many = repeat(context, "call", syntax.between)
        return f"start: {begin}{many}{end}\ncall: {calls}\n{terminal_lines(terminals)}"

    def write_call(self, name: str, arguments: Any) -> str:
        """Return the text of a call."""
        syntax, parts = self.syntax, list[str]()
        for key, value in named_arguments(arguments).items():
            is_text = isinstance(value, str)
            text = value if is_text else json.dumps(value, ensure_ascii=False)
            tag = syntax.text_value if is_text and syntax.text_value else syntax.value
            parts.append(f"{syntax.key}{key}{tag}{text}{syntax.value_end}")
        call = f"{syntax.call}{name}{syntax.after_name}{syntax.between_arguments.join(parts)}{syntax.call_end}"
        return f"{syntax.begin}{call}{syntax.end}"

    def _call_rule(self, context: ToolContext, tool: Tool, terminals: list[str]) -> str:
        syntax, function = self.syntax, tool["function"]
        parameters, required = parameters_of(tool)
        strict = function.get("strict") is True
        names = sorted(parameters, key=lambda name: name not in required)  # stable
        values = []
        for name in names:
            value = self._value_rule(context, name, parameters[name], terminals, strict=strict)
            values.append(f"{self._text(context, syntax.key)} {value}")
        if parameters:
            arguments = sequence(values, len(required), syntax.between_arguments)
        else:
            is_open = "properties" not in (function.get("parameters") or {})
            arguments = self._any_arguments(context, terminals) if is_open else ""
        start = f"{self._text(context, syntax.call)} {self._text(context, function['name'] + syntax.after_name)}"
        return f"{start} {arguments} {self._text(context, syntax.call_end)}"

    def _value_rule(
        self, context: ToolContext, name: str, parameter: Parameter, terminals: list[str], *, strict: bool
    ) -> str:
        """Return a Lark expression for the name and the value of an argument."""
        syntax = self.syntax
        if not syntax.text_value or parameter.types == {"string"}:
            rule = parameter.rule(syntax.value_end, name, terminals, strict=strict)
            return f"{self._text(context, name + (syntax.text_value or syntax.value))} {rule}"

        other = f"{self._text(context, name + syntax.value)} {parameter.json_rule(syntax.value_end)}"
        if "string" not in parameter.types or parameter.values is not None:
            return other
        rule = parameter.rule(syntax.value_end, name, terminals, strict=strict)
        return f"({self._text(context, name + syntax.text_value)} {rule} | {other})"

    def _any_arguments(self, context: ToolContext, terminals: list[str]) -> str:
        """Return a Lark expression for arguments of which nothing is known."""
        syntax = self.syntax
        value = add_terminal(terminals, any_text(syntax.value_end))
        return f"({self._text(context, syntax.key)} /[a-zA-Z0-9_]+/ {self._text(context, syntax.value)} {value})*"

    def _text(self, context: ToolContext, text: str) -> str:
        """Return a Lark expression for a text, in which some parts may be control tokens."""
        parts, rest = [], text
        while rest:
            found = [(rest.find(mark), mark) for mark in context.control_tokens if mark in rest]
            at, mark = min(found, default=(len(rest), ""))
            parts += [literal(rest[:at])] if at else []
            parts += [context.mark(mark)] if mark else []
            rest = rest[at + len(mark) :]
        return " ".join(parts)


class XmlParser(CallParser):
    """Reads one response."""

    def __init__(self, context: ToolContext, triggers: Sequence[str], syntax: XmlSyntax) -> None:
        self.syntax = syntax
        self.openings = (syntax.opening,)  # type: ignore[misc]  # per format
        self._parameters = {tool["function"]["name"]: parameters_of(tool)[0] for tool in context.tools}
        super().__init__(context, triggers)

    def read_calls(self) -> Waiting[None]:
        """Read one call, or the calls between two tags."""
        cursor, syntax = self.cursor, self.syntax
        if not syntax.begin:
            yield from self._expect(syntax.call)
            yield from self._read_call()
            return
        yield from cursor.expect(syntax.begin.strip())
        while True:
            yield from cursor.skip()
            if (yield from cursor.expect(syntax.call.strip(), syntax.end.strip())) == syntax.end.strip():
                if self._end == self._start:
                    raise NotACall
                return
            yield from self._read_call()
            if cursor.ended and syntax.end.strip().startswith(cursor.text[cursor.at :].strip()):
                cursor.at = len(cursor.text)
                return

    def _read_call(self) -> Waiting[None]:
        """Read a call after its first tag."""
        cursor, syntax = self.cursor, self.syntax
        name = yield from self._read_name()
        stops = tuple(tag.strip() for tag in (syntax.key, syntax.call_end))
        if syntax.after_name.strip():
            yield from self._expect(syntax.after_name)
        self.begin_call(name)
        parameters, names = self._parameters.get(name, {}), set[str]()
        while True:
            yield from cursor.skip()
            if (yield from self._find_end(*stops)):
                break
            key = yield from self._read_name()
            parameter = parameters.get(key)
            if syntax.text_value:
                tag = yield from cursor.expect(syntax.text_value, syntax.value)
                parameter = _TEXT if tag == syntax.text_value else _NO_TEXT
            else:
                yield from self._expect(syntax.value)
            if key in names:
                raise NotACall
            yield from self._read_value(key, parameter, first=not names)
            names.add(key)
        self.add_arguments("}" if names else "{}")
        self.end_call()

    def _find_end(self, key: str, call_end: str) -> Waiting[bool]:
        """Go past the tag of the next argument, or past the end of the call; return whether it is the end."""
        cursor = self.cursor
        end_tags = call_end.split()
        found = yield from cursor.expect(key, end_tags[0])
        if found == key:
            return False
        if end_tags[1:]:
            yield from cursor.close(*end_tags[1:])
        return True

    def _read_value(self, key: str, parameter: Parameter | None, *, first: bool) -> Waiting[None]:
        """Read a value; pass texts on as they arrive."""
        cursor, syntax = self.cursor, self.syntax
        before = syntax.value[len(syntax.value.rstrip("\n")) :]
        if before:
            yield from cursor.find(before)
        end = syntax.value_end.strip()
        self.add_arguments(f"{'{' if first else ', '}{json.dumps(key, ensure_ascii=False)}: ")
        is_text = parameter is not None and parameter.types == {"string"}
        if not is_text:
            text, _ = yield from cursor.until(end)
            text = text.removesuffix("\n") if syntax.value_end.startswith("\n") else text
            self.add_arguments((parameter or _ANY).to_json(text))
            return

        self.add_arguments('"')
        held = ""

        def emit(piece: str) -> None:
            nonlocal held
            piece, held = held + piece, ""
            if syntax.value_end.startswith("\n") and piece.endswith("\n"):  # it may belong to the tag
                piece, held = piece[:-1], "\n"
            self.add_arguments(json.dumps(piece, ensure_ascii=False)[1:-1])

        yield from cursor.until(end, emit=emit)
        self.add_arguments('"')

    def _read_name(self) -> Waiting[str]:
        """Return the text up to the next tag or line, and go past it."""
        cursor = self.cursor
        while (match := _ENDS_OF_NAMES.search(cursor.text, cursor.at)) is None:
            yield from cursor.wait()
        name, cursor.at = cursor.text[cursor.at : match.start()].strip(), match.start()
        if not name or len(name) > 256:
            raise NotACall
        return name

    def _expect(self, tags: str) -> Waiting[None]:
        """Go past tags, with any white space between them, but not past white space after them."""
        for tag in filter(None, _BETWEEN_TAGS.split(tags)):
            yield from self.cursor.skip()
            yield from self.cursor.expect(tag)
