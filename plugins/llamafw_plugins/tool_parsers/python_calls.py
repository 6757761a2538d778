"""Reads and describes calls in Python's syntax: ``get_weather(city="Oslo", days=3)``.

No code is evaluated. Independent of what stands around the calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llamafw import RequestError
from llamafw_plugins.tool_parsers.call_parser import CallParser
from llamafw_plugins.tool_parsers.cursor import NotACall, Waiting
from llamafw_plugins.tool_parsers.json_calls import arguments_schema, literal
from llamafw_plugins.tool_parsers.python_values import python_to_json
from llamafw_plugins.tool_parsers.schemas import with_definitions

_STOPS = re.compile(r"""["'(){}\[\],]""")

Tool = Mapping[str, Any]


class PythonCallParser(CallParser):
    """Reads calls in Python's syntax, each argument as soon as it is complete."""

    def read_python_list(self) -> Waiting[None]:
        """Read calls between square brackets."""
        cursor = self.cursor
        yield from cursor.expect("[")
        while True:
            yield from cursor.skip()
            name = yield from cursor.name()
            if self.is_bare and name not in self.context.names:
                raise NotACall
            yield from self.read_python_arguments(name)
            yield from cursor.skip()
            if (yield from cursor.expect(",", "]")) == "]":
                self._end = cursor.at
                return

    def read_python_arguments(self, name: str) -> Waiting[None]:
        """Read the arguments of a call of the tool ``name``, from the parenthesis on."""
        cursor, separator = self.cursor, "{"
        yield from cursor.skip()
        yield from cursor.expect("(")
        self.begin_call(name)
        yield from cursor.skip()
        closed = yield from cursor.find(")")
        names: set[str] = set()
        while not closed:
            key = yield from cursor.name()
            yield from cursor.skip()
            yield from cursor.expect("=")
            if key in names:
                raise NotACall
            names.add(key)
            text, closed = yield from self._read_value()
            self.add_arguments(f"{separator}{json.dumps(key)}: {python_to_json(text)}")
            separator = ", "
            yield from cursor.skip()
            if not closed:
                closed = yield from cursor.find(")")
        self.add_arguments("{}" if separator == "{" else "}")
        self.end_call()

    def _read_value(self) -> Waiting[tuple[str, str]]:
        """Return the text of a value, and the parenthesis after it, if it is the last; go past both, or the comma."""
        cursor = self.cursor
        start, depth, quote = cursor.at, 0, ""
        while True:
            if quote:
                found = re.compile(rf"\\|{quote}").search(cursor.text, cursor.at)
            else:
                found = _STOPS.search(cursor.text, cursor.at)
            if found is None or (found[0] == "\\" and found.end() == len(cursor.text)):
                cursor.at = found.start() if found else len(cursor.text)
                yield from cursor.wait()
                continue

            character, cursor.at = found[0], found.end()
            if quote:
                cursor.at += character == "\\"
                quote = quote if character == "\\" else ""
            elif character in "\"'":
                quote = character
            elif character in "([{":
                depth += 1
            elif depth and character in ")]}":
                depth -= 1
            elif not depth and character in ",)":
                return cursor.text[start : found.start()], character.strip(",")
            elif character in "]}":
                raise NotACall


def python_call_rule(tool: Tool) -> str:
    """Return a Lark expression for calls of a tool, with optional arguments last.

    Values are written as JSON, which reads the same in Python but for ``true``, ``false`` and ``null``.

    Raises
    ------
    RequestError
        The name of a parameter cannot be the name of a Python argument.
    """
    function, schema = tool["function"], arguments_schema(tool)
    properties, required = schema.get("properties") or {}, schema.get("required") or ()
    names = sorted(properties, key=lambda name: name not in required)  # stable
    for name in names:
        if not name.isidentifier():
            message = f"the parameter {name!r} of {function['name']!r} cannot be written in this model's format"
            raise RequestError(message, param="tools")

    values = [f"{literal(name + '=')} %json {json.dumps(with_definitions(properties[name], schema))}" for name in names]
    n_required = sum(name in required for name in names)
    return f"{literal(function['name'] + '(')} {sequence(values, n_required, ', ')} {literal(')')}"


def sequence(values: Sequence[str], n_required: int, separator: str) -> str:
    """Return a Lark expression for ``values`` with separators, of which only the first ``n_required`` must be there."""
    between = f"{literal(separator)} " if separator else ""
    tails = [f"({between}{value})?" for value in values]
    if n_required:
        return " ".join([f" {between}".join(values[:n_required]), *tails[n_required:]])
    starts = [" ".join([value, *tails[i + 1 :]]) for i, value in enumerate(values)]
    return f"({' | '.join(starts)})?" if starts else ""
