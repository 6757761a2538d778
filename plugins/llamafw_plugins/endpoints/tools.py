"""Read the tools of a request, and require a call of them.

Tool parsers know the formats of calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from llamafw import (
    GenerateRequest,
    GrammarSource,
    LoadedModel,
    NotSupported,
    RequestError,
    ToolParserPlugin,
)
from llamafw_plugins.endpoints.response_json import JSON


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools that one request offers to the model."""

    offered: tuple[JSON, ...]  # in OpenAI's format
    required: bool  # the answer must be a tool call
    parallel: bool  # the answer may have several calls
    parser: ToolParserPlugin


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

    if isinstance(choice, dict):
        offered = (offered[_index(choice["function"]["name"], names)],)
    if loaded.tool_parser is None:
        raise NotSupported("this server has no plugin that parses tool calls", param="tools")
    parallel = body.get("parallel_tool_calls") is not False
    return Tools(offered, isinstance(choice, dict) or choice == "required", parallel, loaded.tool_parser)


def require_tool_call(request: GenerateRequest, tools: Tools | None) -> GenerateRequest:
    """Return the request with a grammar that makes its answer a tool call, if the client requires one."""
    if tools is None or not tools.required:
        return request
    if request.grammar is not None:
        message = f"tool_choice requires a tool call, which cannot be combined with {request.grammar.field}"
        raise RequestError(message, param="tool_choice")
    text = tools.parser.grammar(tools.offered, parallel=tools.parallel)
    return replace(request, grammar=GrammarSource("lark", text, "tools"))


def _index(name: str, names: Sequence[str]) -> int:
    if name not in names:
        near = get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; the tools are {', '.join(names)}"
        raise RequestError(f"the tool {name!r} is not in tools{hint}", param="tool_choice.function.name")
    return names.index(name)
