"""Parse tool calls that are written as a list of Python calls, as Llama 3.2 and 4 do.

An example is ``[get_weather(city="Paris"), get_time()]``. The format is described at
https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_2 (zero-shot function calling). An answer either
starts with such a list or is text. No code is evaluated: arguments must be literals.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from secrets import token_hex
from typing import Any

from llamafw import AnswerDelta, CallDelta, Register, RequestError, ToolContext, ToolParser, hookimpl

requires_api = ">=1.0,<2"
POSSIBLE_CALLS = re.compile(r"\[\s*(?:[\w.-]+\s*(?:\(.*)?)?", re.DOTALL)
"""Matches a list of calls and any prefix of one."""

NAME = re.compile(r"[\s,]*([\w.-]+)\s*\(")
CONSTANTS = {"true": True, "false": False, "null": None}  # models sometimes write JSON
CLOSING = {"(": ")", "[": "]", "{": "}"}

Message = Mapping[str, Any]


class Pythonic:
    """The `llamafw.ToolParserPlugin` of the format."""

    marks = ()
    reads_all = False

    def matches(self, template: str, call: str) -> bool:
        """Return whether the chat template writes calls in this format."""
        return "[get_weather(" in call

    def create(self, context: ToolContext) -> ToolParser:
        """Return a parser for one answer."""
        return Parser(context)

    def triggers(self, context: ToolContext) -> Sequence[str]:
        """Return how a list of calls may begin."""
        return [f"[{name}(" for name in sorted(context.names)]

    def grammar(self, context: ToolContext) -> str:
        """Return a Lark grammar of answers that consist of calls."""
        rules = [call_rule(tool["function"]) for tool in context.tools]
        alternatives = " | ".join(f"call{i}" for i in range(len(rules)))
        more = '(", " call)*' if context.parallel else ""
        lines = [f'start: "[" call {more} "]"', f"call: {alternatives}"]
        lines += [f"call{i}: {rule}" for i, rule in enumerate(rules)]
        return "\n".join(lines) + "\n"

    def inline(self, messages: Sequence[Message], tools: Sequence[Message]) -> list[Message]:
        """Write tools, calls and results into the messages, for chat templates that do not support tools."""
        plain = [inline_calls(message) for message in messages]
        if not tools:
            return plain

        functions = json.dumps([tool["function"] for tool in tools], ensure_ascii=False)
        text = (
            "To call functions, answer with a list of calls in Python and nothing else: "
            f"[function(parameter=value), function()]. The functions are:\n{functions}"
        )
        if plain and plain[0]["role"] == "system":
            return [{**plain[0], "content": f"{plain[0]['content']}\n\n{text}"}, *plain[1:]]
        return [{"role": "system", "content": text}, *plain]


class Parser:
    """A `llamafw.ToolParser` that withholds an answer while it may be a list of calls."""

    def __init__(self, context: ToolContext) -> None:
        self.context, self.withheld = context, ""
        self.position = 0  # characters of `withheld` that have been scanned
        self.open: list[str] = []  # closing brackets and quotes that are expected, the next one last
        self.escaped = False  # the last character was a backslash in a string
        self.has_call = False  # `withheld` starts with a name and a parenthesis
        self.decided = False  # the answer is known to be text, or its calls have been returned
        self.after_calls = False  # only white space has followed the calls

    def feed(self, text: str) -> AnswerDelta:
        """Add text to the answer and return the text and the calls that are now certain."""
        if self.decided:
            return AnswerDelta(text=self.strip_after_calls(text))

        self.withheld += text
        if not self.has_call:
            self.withheld = self.withheld.lstrip()
            if self.withheld and not POSSIBLE_CALLS.fullmatch(self.withheld):
                return self.finish()
            self.has_call = "(" in self.withheld

        while self.position < len(self.withheld):
            self.scan(self.withheld[self.position])
            self.position += 1
            if not self.open:
                return self.end_list(self.withheld[: self.position], self.withheld[self.position :])
        return AnswerDelta()

    def finish(self, *, cut: bool = False) -> AnswerDelta:
        """Return the withheld text: it is not a list of calls, or only the beginning of one that a limit has cut."""
        self.decided, text, self.withheld = True, self.withheld, ""
        return AnswerDelta(text="" if cut and self.context.required else text)

    def end_list(self, calls: str, rest: str) -> AnswerDelta:
        """Return the calls of a complete list, or its text if it contains anything else."""
        tool_calls = read_calls(calls)
        if not tool_calls:
            return self.finish()
        self.decided, self.after_calls, self.withheld = True, True, ""
        return AnswerDelta(text=self.strip_after_calls(rest), calls=tuple(tool_calls))

    def strip_after_calls(self, text: str) -> str:
        """Return the text without white space that follows the calls."""
        if self.after_calls:
            text = text.lstrip()
            self.after_calls = not text
        return text

    def scan(self, char: str) -> None:
        """Update the open brackets and quotes by one character."""
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


def read_calls(text: str) -> list[CallDelta]:
    """Return the calls of a list, or an empty list if it contains anything else."""
    inner, calls = text.strip()[1:-1].strip(), list[CallDelta]()
    while inner:
        name, scanner = NAME.match(inner), Parser(ToolContext())
        if name is None:
            return []

        start = end = name.end() - 1
        while end < len(inner):
            scanner.scan(inner[end])
            end += 1
            if not scanner.open:
                break

        try:
            arguments = json.dumps(read_arguments(inner[start:end]), ensure_ascii=False, allow_nan=False)
            arguments.encode()  # fails for surrogates, which Python strings may contain
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return []

        calls.append(CallDelta(len(calls), f"call_{token_hex(12)}", name[1], arguments))
        inner = inner[end:].lstrip(" ,\n")
    return calls


def read_arguments(text: str) -> dict[str, Any]:
    """Return the keyword arguments of ``(city="Paris", days=3)``; ValueError unless all are literals."""
    call = ast.parse(f"f{text}", mode="eval").body
    if not isinstance(call, ast.Call) or call.args:
        raise ValueError("arguments must have names")
    return {keyword.arg: literal(keyword.value) for keyword in call.keywords if keyword.arg is not None}


def literal(node: ast.expr) -> Any:
    """Return the value of a Python or JSON literal."""
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
    raise ValueError(f"{ast.unparse(node)} is not a literal")


def call_rule(function: Message) -> str:
    """Return the right side of a Lark rule for calls of ``function``, with optional arguments last."""
    parameters = function.get("parameters") or {}
    properties, required = parameters.get("properties") or {}, parameters.get("required") or ()
    shared = {key: parameters[key] for key in ("$defs", "definitions") if key in parameters}

    names = sorted(properties, key=lambda name: name not in required)  # stable
    for name in names:
        if not name.isidentifier():
            raise RequestError(f"the parameter {name!r} of {function['name']!r} is not a valid name in Python")

    values = [f'"{name}=" %json {json.dumps(properties[name] | shared)}' for name in names]
    n_required = sum(name in required for name in names)
    first = ['", "'.join(f" {value} " for value in values[:n_required])] if n_required else []
    tails = [optional_tail(values[i:]) for i in range(n_required, len(values))]

    if first:
        inner = f"{first[0]} {''.join(optional_argument(value) for value in values[n_required:])}"
    else:
        inner = f"({' | '.join(tails)})?" if tails else ""
    return f'"{function["name"]}(" {inner} ")"'


def optional_tail(values: Sequence[str]) -> str:
    """Return a rule for the first argument, followed by any of the others."""
    return f"{values[0]} {''.join(optional_argument(value) for value in values[1:])}"


def optional_argument(value: str) -> str:
    """Return a rule for an argument that may follow another one."""
    return f'(", " {value})? '


def inline_calls(message: Message) -> Message:
    """Return a message with its calls or its result as text."""
    content = message.get("content") or ""
    if message["role"] == "tool":
        return {"role": "user", "content": f"The function returned:\n{content}"}
    if not message.get("tool_calls"):
        return message
    calls = ", ".join(as_python(call["function"]) for call in message["tool_calls"])
    return {"role": message["role"], "content": f"[{calls}]"}


def as_python(function: Message) -> str:
    """Return a call in Python syntax."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in function["arguments"].items())
    return f"{function['name']}({arguments})"


@hookimpl
def register_tool_parsers(register: Register) -> None:
    """Register ``--tool-parser pythonic``, which is also used for chat templates that match."""
    register("pythonic", Pythonic())
