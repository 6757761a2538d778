"""Reads and describes calls that are JSON objects with a name and arguments: ``{"name": …, "arguments": {…}}``.

Independent of what stands around the objects.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llamafw import ToolContext
from llamafw_plugins.tool_parsers.call_parser import CallParser, check_object, parse_json
from llamafw_plugins.tool_parsers.cursor import NotACall, Waiting

NAMES, ARGUMENTS, IDS = ("name", "tool_name"), ("arguments", "parameters"), ("id",)

Tool = Mapping[str, Any]


class JsonCallParser(CallParser):
    """Reads calls that are JSON objects, alone or in an array.

    Bare objects are calls only if they have the name of an offered tool and arguments.
    """

    def read_objects(self) -> Waiting[None]:
        """Read one object, or an array of objects."""
        cursor = self.cursor
        if not (yield from cursor.find("[")):
            yield from self.read_object()
            return
        while True:
            yield from cursor.skip()
            yield from self.read_object()
            yield from cursor.skip()
            if (yield from cursor.expect(",", "]")) == "]":
                self._end = cursor.at
                return

    def read_object(self) -> Waiting[None]:
        """Read one object."""
        cursor, name, id, held, n_before = self.cursor, "", "", "", self._index
        if (yield from cursor.peek()) != "{":
            raise NotACall
        cursor.at += 1
        yield from cursor.skip()
        closed = bool((yield from cursor.find("}")))
        while not closed:
            key = parse_json((yield from cursor.json()))
            yield from self._skip_colon()
            if key in ARGUMENTS and name and self._index == n_before and (yield from cursor.peek()) == "{":
                self._check_name(name)
                yield from self.read_arguments(name, id)
            elif key in ARGUMENTS and not held and self._index == n_before:
                held = yield from cursor.json()
            elif key in ARGUMENTS:
                raise NotACall
            else:
                value = yield from cursor.json()
                name = str(parse_json(value)) if key in NAMES and value[0] == '"' else name
                id = str(parse_json(value)) if key in IDS and value[0] == '"' else id
            yield from cursor.skip()
            closed = (yield from cursor.expect(",", "}")) == "}"
            yield from cursor.skip() if not closed else ()

        if self._index == n_before:
            self._add_call(name, id, held)
        self._end = cursor.at

    def _add_call(self, name: str, id: str, arguments: str) -> None:
        """Add a call whose arguments are text in JSON, stood before its name, or are missing."""
        if not name or (not arguments and self.is_bare):
            raise NotACall
        self._check_name(name)
        value = parse_json(arguments or "{}")
        text = value if isinstance(value, str) else arguments or "{}"
        check_object(text)
        self.begin_call(name, id)
        self.add_arguments(text)
        self.end_call()

    def _check_name(self, name: str) -> None:
        if self.is_bare and name not in self.context.names:
            raise NotACall

    def _skip_colon(self) -> Waiting[None]:
        yield from self.cursor.skip()
        yield from self.cursor.expect(":")
        yield from self.cursor.skip()


def object_rule(
    tools: Sequence[Tool], name_key: str = "name", arguments_key: str = "arguments", before: str = ""
) -> str:
    """Return a Lark expression for one call of one of the ``tools``.

    The parameters of each tool are a separate schema, in which ``$ref`` resolves as in the request.

    Parameters
    ----------
    before : str
        Members of the object that come first, with a comma after each.
    """
    calls = []
    for tool in tools:
        beginning = f'{{{before}"{name_key}": {json.dumps(tool["function"]["name"])}, "{arguments_key}": '
        calls.append(f'{literal(beginning)} {arguments_rule(tool)} "}}"')
    return f"({' | '.join(calls)})"


def arguments_rule(tool: Tool) -> str:
    """Return a Lark expression for the arguments of a tool."""
    return f"%json {json.dumps(arguments_schema(tool))}"


def arguments_schema(tool: Tool) -> Any:
    """Return the schema of a tool's arguments: any object if the tool has no ``parameters``."""
    return {"type": "object", **(tool["function"].get("parameters") or {})}


def literal(text: str) -> str:
    """Return a Lark expression for a text."""
    return json.dumps(text, ensure_ascii=False)


def repeat(context: ToolContext, call: str, separator: str = "") -> str:
    """Return a Lark expression for one call, or for several if the context allows them."""
    if not context.parallel:
        return call
    return f"{call} ({f'{literal(separator)} ' if separator else ''}{call})*"
