"""Read the tools of a request, and constrain its answer to calls of them.

Tool parsers know the formats of calls.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

import orjson

from llamafw import (
    GenerateRequest,
    GrammarSource,
    LoadedModel,
    NotSupported,
    RequestError,
    Tokenizer,
    ToolContext,
    ToolParser,
    ToolParserPlugin,
)
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.grammars.json_schema import to_llguidance
from llamafw_plugins.grammars.schema_paths import SchemaError

JSON_FIELDS = ("json_schema", "response_format")  # request fields that ask for JSON


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools that one request offers to the model."""

    offered: tuple[JSON, ...]  # in OpenAI's format; the prompt describes them
    required: bool  # the answer must be a tool call
    parallel: bool  # the answer may have several calls
    parser: ToolParserPlugin
    callable: tuple[JSON, ...] = ()  # those of them that may be called
    context: ToolContext = field(default_factory=ToolContext)  # for the parser of an answer
    i_first: int = 0  # index of the first offered tool among those of the request

    def create_parser(self) -> ToolParser:
        """Return a parser for one answer."""
        return self.parser.create(self.context)


def read_tools(body: JSON, loaded: LoadedModel) -> Tools | None:
    """Return the tools that a validated chat request offers to the model, or None.

    Raises
    ------
    RequestError
        Two tools have the same name, or ``tool_choice`` names a tool that the request does not have.
    NotSupported
        The server has no tool parser.
    """
    offered, choice = tuple(body.get("tools") or ()), body.get("tool_choice")
    if not offered:
        if choice not in (None, "none", "auto"):
            raise RequestError("tool_choice needs at least one tool in tools", param="tool_choice")
        return None

    names = [tool["function"]["name"] for tool in offered]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise RequestError(f"two tools have the same name, {name!r}", param=f"tools.{i}.function.name")
    if choice == "none":
        return None
    if loaded.tool_parser is None:
        raise NotSupported("this server has no plugin that parses tool calls", param="tools")

    allowed, required, i_first = offered, choice == "required", 0
    if isinstance(choice, dict) and choice["type"] == "function":
        i_first = _index(choice["function"]["name"], names, "tool_choice.function.name")
        offered = allowed = (offered[i_first],)
        required = True
    elif isinstance(choice, dict):
        allowed, required = _allowed_tools(choice, offered, names)
    parallel = body.get("parallel_tool_calls") is not False
    return Tools(offered, required, parallel, loaded.tool_parser, allowed, i_first=i_first)


def _allowed_tools(choice: JSON, offered: Sequence[JSON], names: Sequence[str]) -> tuple[tuple[JSON, ...], bool]:
    """Return the tools that ``allowed_tools`` names, and whether one of them must be called."""
    given = choice["allowed_tools"]
    allowed = {
        _index(tool["function"]["name"], names, f"tool_choice.allowed_tools.tools.{i}.function.name")
        for i, tool in enumerate(given["tools"])
    }
    return tuple(offered[i] for i in sorted(allowed)), given["mode"] == "required"


def constrain_calls(
    request: GenerateRequest, tools: Tools | None, tokenizer: Tokenizer
) -> tuple[GenerateRequest, Tools | None]:
    """Return the request with a grammar for its calls, and the tools with what their parser has to know.

    If the client requires a call, the answer is one. Otherwise the grammar holds from the beginning of a call on; if
    the client also asks for JSON, the answer is either calls or JSON. With another grammar of the client, calls may be
    anything that it allows.

    Call it on a worker thread, because tools may have large schemas.

    Raises
    ------
    RequestError
        The schema of a tool cannot be enforced although the client asks for it, or a call is required together with
        a grammar.
    """
    if tools is None:
        return request, None
    grammar = request.grammar
    wants_json = grammar is not None and grammar.field.partition(".")[0] in JSON_FIELDS
    if tools.required and grammar is not None and not wants_json:
        message = f"tool_choice requires a tool call, which cannot be combined with {grammar.field}"
        raise RequestError(message, param="tool_choice")

    tokens = control_tokens(tools.parser.marks, tokenizer)
    request = replace(request, visible=request.visible | frozenset(tokens.values()))
    context = ToolContext(
        tools.callable,
        parallel=tools.parallel,
        required=tools.required,
        enforced=grammar is None or wants_json,
        may_be_json=wants_json and not tools.required,
        control_tokens=tokens,
    )
    if context.enforced:
        request = replace(request, grammar=_call_grammar(tools, context, grammar))
    return request, replace(tools, context=context)


def _call_grammar(tools: Tools, context: ToolContext, answer: GrammarSource | None) -> GrammarSource:
    """Return the grammar of answers with calls; ``answer`` is what the client asks for if there are none."""
    usable = tuple(
        _enforceable(tool, i, required=tools.required)
        for i, tool in enumerate(tools.offered, tools.i_first)
        if tool["function"]["name"] in context.names
    )
    context = replace(context, tools=usable)
    text = tools.parser.grammar(context)
    if tools.required:
        return GrammarSource("lark", text, "tools")
    if answer is None:
        return GrammarSource("lark", text, "tools", at=tuple(tools.parser.triggers(context)))

    _check_schema(answer)
    calls = "\n".join(_rename_start(line) for line in text.splitlines())
    return GrammarSource("lark", f"start: calls | answer\nanswer: %json {answer.text}\n{calls}\n", "tools")


def _rename_start(line: str) -> str:
    return f"calls:{line.removeprefix('start:')}" if line.startswith("start:") else line


def _check_schema(answer: GrammarSource) -> None:
    """Raise RequestError if a client's schema cannot be enforced."""
    try:
        to_llguidance(orjson.loads(answer.text))
    except SchemaError as error:
        raise RequestError(str(error), param=".".join((answer.field, *error.path))) from None


def _enforceable(tool: JSON, i: int, *, required: bool) -> JSON:
    """Return a tool with parameters that can be enforced: any, if its own cannot and nobody asks for them."""
    function = tool["function"]
    if function.get("parameters") is None:
        return tool
    try:
        to_llguidance(function["parameters"])
    except SchemaError as error:
        if required or function.get("strict"):
            param = ".".join((f"tools.{i}.function.parameters", *error.path))
            raise RequestError(str(error), param=param) from None
        return {**tool, "function": {**function, "parameters": {"type": "object"}}}
    return tool


def control_tokens(texts: Collection[str], tokenizer: Tokenizer) -> Mapping[str, int]:
    """Return the tokens of those ``texts`` that are control tokens, which have no text by default."""
    found: dict[str, int] = {}
    for text in texts:
        tokens = tokenizer.encode(text, parse_special=True)
        if len(tokens) == 1 and not tokenizer.piece(tokens[0]) and tokens[0] not in tokenizer.eog:
            found[text] = tokens[0]
    return found


def _index(name: str, names: Sequence[str], param: str) -> int:
    if name not in names:
        near: list[Any] = get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; the tools are {', '.join(names)}"
        raise RequestError(f"the tool {name!r} is not in tools{hint}", param=param)
    return names.index(name)
