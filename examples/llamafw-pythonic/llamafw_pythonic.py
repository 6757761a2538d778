"""Calls of tools as a list of Python calls, ``[get_weather(city="Paris"), get_time()]``: Llama 3.2 and 4.

Format: https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_2 (zero-shot function calling). An answer is
such a list from its beginning, or it is text. Nothing is evaluated: arguments are literals.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from secrets import token_hex
from typing import Any

from llamafw import Register, RequestError, ToolCall, ToolParser, hookimpl

requires_api = ">=1.0,<2"
BEGINNING = re.compile(r"\[\s*(?:[\w.-]+\s*(?:\(.*)?)?", re.DOTALL)  # whole, or any start of it
NAME = re.compile(r"[\s,]*([\w.-]+)\s*\(")
CONSTANTS = {"true": True, "false": False, "null": None}  # as models that know JSON better write them
CLOSING = {"(": ")", "[": "]", "{": "}"}

Message = Mapping[str, Any]


class Pythonic:
    """A `llamafw.ToolParserPlugin`."""

    def matches(self, template: str) -> bool:
        """Return whether the template explains calls this way, as that of Llama 4 does."""
        return "func_name1(" in template

    def create(self) -> ToolParser:
        """Return a parser for one answer."""
        return Parser()

    def grammar(self, tools: Sequence[Message], *, parallel: bool) -> str:
        """Return a Lark grammar of answers that are calls and nothing else."""
        calls = [call_rule(tool["function"]) for tool in tools]
        rules = "\n".join(f"call{i}: {rule}" for i, rule in enumerate(calls))
        more = '(", " call)*' if parallel else ""
        return f'start: "[" call {more} "]"\ncall: {" | ".join(f"call{i}" for i in range(len(calls)))}\n{rules}\n'

    def inline(self, messages: Sequence[Message], tools: Sequence[Message]) -> list[Message]:
        """Write tools, calls and results into the text of messages, for a template that knows none of them."""
        plain = [inlined(message) for message in messages]
        if not tools:
            return plain
        listed = json.dumps([tool["function"] for tool in tools], ensure_ascii=False)
        text = (
            "To call functions, answer with a list of calls in Python and nothing else: "
            f"[function(parameter=value), function()]. These may be called:\n{listed}"
        )
        if plain and plain[0]["role"] == "system":
            return [{**plain[0], "content": f"{plain[0]['content']}\n\n{text}"}, *plain[1:]]
        return [{"role": "system", "content": text}, *plain]


class Parser:
    """A `llamafw.ToolParser`: holds an answer back for as long as it may be a list of calls."""

    def __init__(self) -> None:
        self.held = ""
        self.at = 0  # how much of it has been looked at
        self.open: list[str] = []  # the brackets, and the quote, that are to be closed
        self.escaped = self.begun = self.decided = self.called = False

    def feed(self, text: str) -> tuple[str, list[ToolCall]]:
        """Take in more text; return the text and the calls that are now certain."""
        if self.decided:
            return self.after(text), []
        self.held = (self.held + text).lstrip() if not self.begun else self.held + text
        if not self.begun:
            if self.held and not BEGINNING.fullmatch(self.held):
                return self.finish()
            self.begun = "(" in self.held
        while self.at < len(self.held):
            self.step(self.held[self.at])
            self.at += 1
            if not self.open:
                return self.end(self.held[: self.at], self.held[self.at :])
        return "", []

    def finish(self) -> tuple[str, list[ToolCall]]:
        """Return what was held back, which is text."""
        self.decided, held, self.held = True, self.held, ""
        return held, []

    def end(self, calls: str, rest: str) -> tuple[str, list[ToolCall]]:
        """The list is closed: return its calls, or all of it as text if it holds something else."""
        found = read_calls(calls)
        if not found:
            return self.finish()
        self.decided, self.called, self.held = True, True, ""
        return self.after(rest), found

    def after(self, text: str) -> str:
        """Return text, without the white space between it and calls."""
        if self.called:
            text = text.lstrip()
            self.called = not text
        return text

    def step(self, char: str) -> None:
        """Go on by a character: which brackets are open?"""
        quote = self.open[-1] if self.open and self.open[-1] in "\"'" else ""
        if quote and (self.escaped or char == "\\"):
            self.escaped = not self.escaped
        elif quote:
            if char == quote:
                self.open.pop()
        elif char in "\"'":
            self.open.append(char)
        elif char in CLOSING:
            self.open.append(CLOSING[char])
        elif self.open and char == self.open[-1]:
            self.open.pop()


def read_calls(text: str) -> list[ToolCall]:
    """Return the calls in a list; [] if anything in it is none."""
    inner, calls = text.strip()[1:-1].strip(), list[ToolCall]()
    while inner:
        name, scanner = NAME.match(inner), Parser()
        if name is None:
            return []
        start = end = name.end() - 1
        while end < len(inner):
            scanner.step(inner[end])
            end += 1
            if not scanner.open:
                break
        try:
            arguments = json.dumps(read_arguments(inner[start:end]), ensure_ascii=False, allow_nan=False)
            arguments.encode()  # Python's strings may hold what is no Unicode
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return []
        calls.append(ToolCall(f"call_{token_hex(12)}", name[1], arguments))
        inner = inner[end:].lstrip(" ,\n")
    return calls


def read_arguments(text: str) -> dict[str, Any]:
    """Return the keyword arguments in ``(city="Paris", days=3)``; an error if they are anything but literals."""
    call = ast.parse(f"f{text}", mode="eval").body
    if not isinstance(call, ast.Call) or call.args:
        raise ValueError("arguments have names")
    return {keyword.arg: literal(keyword.value) for keyword in call.keywords if keyword.arg is not None}


def literal(node: ast.expr) -> Any:
    """Return the value of a literal of Python or JSON."""
    match node:
        case ast.Constant(value=str() | int() | float() | None):
            return node.value
        case ast.Name() if node.id in CONSTANTS:
            return CONSTANTS[node.id]
        case ast.List() | ast.Tuple():
            return [literal(item) for item in node.elts]
        case ast.Dict():
            return {str(literal(key)): literal(value) for key, value in zip(node.keys, node.values, strict=True) if key}
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
    raise ValueError(f"{ast.unparse(node)} is no literal")


def call_rule(function: Message) -> str:
    """Return what a call of ``function`` may be, as the right side of a Lark rule. Optional arguments come last."""
    parameters = function.get("parameters") or {}
    properties, required = parameters.get("properties") or {}, parameters.get("required") or ()
    shared = {key: parameters[key] for key in ("$defs", "definitions") if key in parameters}
    names = sorted(properties, key=lambda name: name not in required)  # stable
    for name in names:
        if not name.isidentifier():
            raise RequestError(f"the parameter {name!r} of {function['name']!r} is no name in Python")
    values = [f'"{name}=" %json {json.dumps(properties[name] | shared)}' for name in names]
    n_required = sum(name in required for name in names)
    first = ['", "'.join(f" {value} " for value in values[:n_required])] if n_required else []
    tails = [rest(values[i:]) for i in range(n_required, len(values))]
    if first:
        inner = f"{first[0]} {''.join(optional(value) for value in values[n_required:])}"
    else:
        inner = f"({' | '.join(tails)})?" if tails else ""
    return f'"{function["name"]}(" {inner} ")"'


def rest(values: Sequence[str]) -> str:
    """Return the first of some optional arguments, and any of those after it."""
    return f"{values[0]} {''.join(optional(value) for value in values[1:])}"


def optional(value: str) -> str:
    """Return an argument that may follow another."""
    return f'(", " {value})? '


def inlined(message: Message) -> Message:
    """Return a message with calls and results as text."""
    content = message.get("content") or ""
    if message["role"] == "tool":
        return {"role": "user", "content": f"The function returned:\n{content}"}
    if not message.get("tool_calls"):
        return message
    calls = ", ".join(written(call["function"]) for call in message["tool_calls"])
    return {"role": message["role"], "content": f"[{calls}]"}


def written(function: Message) -> str:
    """Return a call as Python."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in function["arguments"].items())
    return f"{function['name']}({arguments})"


@hookimpl
def register_tool_parsers(register: Register) -> None:
    """Offer the format; it is used for templates that it matches, or with ``--tool-parser pythonic``."""
    register("pythonic", Pythonic())
