"""Parses tool calls written as JSON between two delimiters.

Independent of the delimiters of any model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from secrets import token_hex
from typing import Any

from llamafw import ToolCall

Calls = list[ToolCall]


def make_openai_id() -> str:
    """Return an id in the format of OpenAI."""
    return f"call_{token_hex(12)}"


class DelimitedCallParser:
    """Finds calls between two delimiters.

    Implements `llamafw.ToolParser`.

    If the text between two delimiters is not a valid call, it is plain text, together with the delimiters.

    Parameters
    ----------
    opening : str
        The delimiter before calls.
    closing : str or None
        The delimiter after calls; None: calls go on until the end of the response.
    allow_bare : bool
        A response that begins with a brace or bracket is a call without delimiters.
    make_id : callable
        Returns the id of a new call.
    """

    def __init__(
        self,
        opening: str,
        closing: str | None,
        *,
        allow_bare: bool = False,
        make_id: Callable[[], str] = make_openai_id,
    ) -> None:
        self._opening, self._closing, self._allow_bare, self._make_id = opening, closing, allow_bare, make_id
        self._text_before = ""  # plain text before the call that was just entered
        self._buffer = ""  # the possible beginning of a delimiter, or the inside of a call
        self._in_call = False
        self._used_opening = ""  # the text that opened the current call: with allow_bare, possibly only white space
        self._has_text = False  # the response had text other than white space
        self._after_call = False  # the last part was a call: white space after it is dropped

    def feed(self, text: str) -> tuple[str, Calls]:
        """Add ``text``; return the plain text and the complete calls that are now certain."""
        self._buffer += text
        plain, calls = "", Calls()
        while True:
            if self._in_call:
                ended = self._leave_call()
                if ended is None:
                    return plain, calls
                rest, new_calls = ended
                calls += new_calls
                plain += self._emit(rest)
            elif self._enter_call():
                plain += self._emit(self._text_before)
            else:
                plain += self._emit(self._take_certain_text())
                return plain, calls

    def finish(self) -> tuple[str, Calls]:
        """Return what was held back, at the end of the response."""
        rest, self._buffer = self._buffer, ""
        if not self._in_call:
            return self._emit(rest), []
        self._in_call = False
        calls = parse_calls(rest, self._make_id)
        return ("", calls) if calls else (self._emit(self._used_opening + rest), [])

    def _enter_call(self) -> bool:
        """Enter the next call if the buffer has its beginning; put the text before it into ``_text_before``."""
        stripped = self._buffer.lstrip()
        start, opening = self._buffer.find(self._opening), self._opening
        may_be_bare = self._allow_bare and not self._has_text and stripped[:1] in ("{", "[")
        if may_be_bare and not stripped.startswith(opening):
            if opening.startswith(stripped):  # may still become the delimiter, which begins with a bracket too
                return False
            start, opening = 0, self._buffer.removesuffix(stripped)
        if start < 0:
            return False

        self._text_before, self._buffer = self._buffer[:start], self._buffer[start + len(opening) :]
        self._used_opening = opening
        self._in_call = self._has_text = True
        return True

    def _leave_call(self) -> tuple[str, Calls] | None:
        """Leave the current call if the buffer has its end, and return its calls, or its text if it is invalid."""
        if self._closing is None or (end := self._buffer.find(self._closing)) < 0:
            return None
        inner, self._buffer = self._buffer[:end], self._buffer[end + len(self._closing) :]
        self._in_call = False
        calls = parse_calls(inner, self._make_id)
        self._after_call = bool(calls)
        return ("", calls) if calls else (self._used_opening + inner + self._closing, [])

    def _take_certain_text(self) -> str:
        """Remove the text that cannot belong to a delimiter from the buffer and return it."""
        if self._allow_bare and not self._has_text and self._opening.startswith(self._buffer.lstrip()):
            return ""
        longest = min(len(self._opening) - 1, len(self._buffer))
        n_kept = next((n for n in range(longest, 0, -1) if self._opening.startswith(self._buffer[-n:])), 0)
        split = len(self._buffer) - n_kept
        text, self._buffer = self._buffer[:split], self._buffer[split:]
        return text

    def _emit(self, text: str) -> str:
        """Return plain text without white space that follows a call."""
        if self._after_call:
            text = text.lstrip()
            self._after_call = not text
        self._has_text = self._has_text or bool(text.strip())
        return text


def parse_calls(text: str, make_id: Callable[[], str]) -> Calls:
    """Return the calls in JSON objects and arrays, separated by ``;`` or ``,``; [] if any part is not a call."""
    decoder, calls, position = json.JSONDecoder(), Calls(), 0
    text = text.strip()
    while position < len(text):
        try:
            value, position = decoder.raw_decode(text, position)
        except (json.JSONDecodeError, RecursionError):
            return []
        for item in value if isinstance(value, list) else [value]:
            call = to_tool_call(item, make_id)
            if call is None:
                return []
            calls.append(call)
        while position < len(text) and text[position] in " \t\r\n;,":
            position += 1
    return calls


def to_tool_call(value: Any, make_id: Callable[[], str]) -> ToolCall | None:
    """Return the call in ``{"name": …, "arguments" or "parameters": …}``; None if ``value`` is not a call."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        return ToolCall(make_id(), value["name"], arguments)
    if not isinstance(arguments, dict):
        return None
    return ToolCall(make_id(), value["name"], json.dumps(arguments, ensure_ascii=False))


def call_rule(tools: Sequence[Any], arguments_key: str = "arguments") -> str:
    """Return a Lark expression for one call of one of the ``tools``.

    The parameters of each tool are a separate schema, in which ``$ref`` resolves as in the request.
    """
    calls = []
    for tool in tools:
        beginning = f'{{"name": {json.dumps(tool["function"]["name"])}, "{arguments_key}": '
        calls.append(f'{json.dumps(beginning)} %json {json.dumps(arguments_schema(tool))} "}}"')
    return f"({' | '.join(calls)})"


def arguments_schema(tool: Any) -> Any:
    """Return the schema of a tool's arguments: any object if the tool has no ``parameters``."""
    return tool["function"].get("parameters") or {"type": "object"}
