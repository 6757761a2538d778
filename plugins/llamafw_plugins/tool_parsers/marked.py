"""Calls between two marks in an answer's text, written as JSON. It knows nothing of what the marks are."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from secrets import token_hex
from typing import Any

from llamafw import ToolCall

Calls = list[ToolCall]


def new_id() -> str:
    """Return an id as OpenAI makes them."""
    return f"call_{token_hex(12)}"


class MarkedParser:
    """Finds calls between ``opening`` and ``closing``. What is no call after all is text, marks included.

    Parameters
    ----------
    opening : str
        What calls begin with.
    closing : str or None
        What they end with; None: the end of the answer.
    bare : bool
        An answer that begins with a brace is a call without marks.
    make_id : callable
        Returns the id of a call.
    """

    def __init__(
        self, opening: str, closing: str | None, *, bare: bool = False, make_id: Callable[[], str] = new_id
    ) -> None:
        self._opening, self._closing, self._bare, self._make_id = opening, closing, bare, make_id
        self._before = ""  # text before the call that was just entered
        self._held = ""  # text that may become a mark, or the inside of a call
        self._inside = False
        self._mark = ""  # what opened the call that we are in
        self._begun = False  # something but white space has been seen
        self._called = False  # a call has just ended: white space after it says nothing

    def feed(self, text: str) -> tuple[str, Calls]:
        """Take in more text; return the text and the calls that are now certain."""
        self._held += text
        certain, calls = "", Calls()
        while True:
            if self._inside:
                found = self._leave()
                if found is None:
                    return certain, calls
                rest, more = found
                calls += more
                certain += self._say(rest)
            elif not self._enter():
                certain += self._say(self._take_certain())
                return certain, calls
            else:
                certain += self._say(self._before)

    def finish(self) -> tuple[str, Calls]:
        """Return what was held back: the answer has ended."""
        held, self._held = self._held, ""
        if not self._inside:
            return self._say(held), []
        self._inside = False
        calls = read_calls(held, self._make_id)
        return ("", calls) if calls else (self._say(self._mark + held), [])

    def _enter(self) -> bool:
        """Look for the start of a call; the text before it is then in `_before`."""
        head, start, mark = self._held.lstrip(), self._held.find(self._opening), self._opening
        if self._bare and not self._begun and head[:1] in ("{", "[") and not head.startswith(mark):
            if mark.startswith(head):  # it begins with a bracket, and there is more to come
                return False
            start, mark = 0, self._held.removesuffix(head)
        if start < 0:
            return False
        self._before, self._held, self._mark = self._held[:start], self._held[start + len(mark) :], mark
        self._inside = self._begun = True
        return True

    def _leave(self) -> tuple[str, Calls] | None:
        """Return the text and the calls of a part that has ended; None: it has not."""
        if self._closing is None or (end := self._held.find(self._closing)) < 0:
            return None
        inner, self._held = self._held[:end], self._held[end + len(self._closing) :]
        self._inside = False
        calls = read_calls(inner, self._make_id)
        self._called = bool(calls)
        return ("", calls) if calls else (self._mark + inner + self._closing, [])

    def _take_certain(self) -> str:
        """Return the text that is no start of a mark, and keep the rest."""
        if self._bare and not self._begun and self._opening.startswith(self._held.lstrip()):
            return ""
        n = min(len(self._opening) - 1, len(self._held))
        keep = next((k for k in range(n, 0, -1) if self._opening.startswith(self._held[-k:])), 0)
        certain, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return certain

    def _say(self, text: str) -> str:
        if self._called:
            text = text.lstrip()
            self._called = not text
        self._begun = self._begun or bool(text.strip())
        return text


def read_calls(text: str, make_id: Callable[[], str]) -> Calls:
    """Return the calls in a JSON object, an array, or several of them with ``;`` between; [] if anything is none."""
    decoder, calls, at = json.JSONDecoder(), Calls(), 0
    text = text.strip()
    while at < len(text):
        try:
            found, end = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError):
            return []
        for one in found if isinstance(found, list) else [found]:
            call = as_call(one, make_id)
            if call is None:
                return []
            calls.append(call)
        at = end
        while at < len(text) and text[at] in " \t\r\n;,":
            at += 1
    return calls


def as_call(found: Any, make_id: Callable[[], str]) -> ToolCall | None:
    """Return the call that ``{"name", "arguments" or "parameters"}`` says; None if it is none."""
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return None
    arguments = found.get("arguments", found.get("parameters", {}))
    if isinstance(arguments, str):
        return ToolCall(make_id(), found["name"], arguments)
    if not isinstance(arguments, dict):
        return None
    return ToolCall(make_id(), found["name"], json.dumps(arguments, ensure_ascii=False))


def calls_of(tools: Sequence[Any], key: str = "arguments") -> str:
    """Return what Lark has for one call of one of the ``tools``.

    Parameters are a schema of their own, so that ``$ref`` leads to where it does in the request.
    """
    calls = []
    for tool in tools:
        opening = f'{{"name": {json.dumps(tool["function"]["name"])}, "{key}": '
        calls.append(f'{json.dumps(opening)} %json {json.dumps(parameters_of(tool))} "}}"')
    return f"({' | '.join(calls)})"


def parameters_of(tool: Any) -> Any:
    """Return the schema of a tool's arguments."""
    return tool["function"].get("parameters") or {"type": "object"}
