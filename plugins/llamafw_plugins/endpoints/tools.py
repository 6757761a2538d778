"""The tools of a conversation: which may be called, which must be. It knows nothing of how models write calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from llamafw import GenerateRequest, GrammarSource, LoadedModel, NotSupported, RequestError, ToolCall, ToolParserPlugin
from llamafw_plugins.endpoints.shapes import JSON


@dataclass(frozen=True, slots=True)
class Tools:
    """What one request says of tools."""

    offered: tuple[JSON, ...]  # as OpenAI describes them
    required: bool  # the answer must be a call
    parallel: bool  # or several
    parser: ToolParserPlugin


def read_tools(body: JSON, loaded: LoadedModel) -> Tools | None:
    """Return the tools of a validated chat request; None if there are none to call.

    Raises
    ------
    RequestError
        Two tools have one name, or ``tool_choice`` names a tool that is not there.
    NotSupported
        No plugin of this server reads calls.
    """
    offered, choice = tuple(body.get("tools") or ()), body.get("tool_choice")
    if not offered:
        if choice not in (None, "none", "auto"):
            raise RequestError("tool_choice needs tools", param="tool_choice")
        return None
    names = [tool["function"]["name"] for tool in offered]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise RequestError(f"two tools have the name {name!r}", param=f"tools.{i}.function.name")
    if choice == "none":
        return None
    if isinstance(choice, dict):
        offered = (offered[_index(choice["function"]["name"], names)],)
    if loaded.tool_parser is None:
        raise NotSupported("this server has no plugin that reads calls of tools", param="tools")
    parallel = body.get("parallel_tool_calls") is not False
    return Tools(offered, isinstance(choice, dict) or choice == "required", parallel, loaded.tool_parser)


def hold_to_calls(request: GenerateRequest, tools: Tools | None) -> GenerateRequest:
    """Return the request with a grammar that makes its answer a call, if it must be one."""
    if tools is None or not tools.required:
        return request
    if request.grammar is not None:
        message = f"a call is required, so the answer cannot be held to {request.grammar.field} as well"
        raise RequestError(message, param="tool_choice")
    text = tools.parser.grammar(tools.offered, parallel=tools.parallel)
    return replace(request, grammar=GrammarSource("lark", text, "tools"))


class CallReader:
    """Reads the text of one answer: what is plain text, and what are calls."""

    def __init__(self, tools: Tools | None) -> None:
        self.n_calls = 0
        self._parser = tools.parser.create() if tools else None
        self._most = None if tools is None or tools.parallel else 1

    def read(self, text: str, *, last: bool) -> tuple[str, list[ToolCall]]:
        """Take in more text; return the plain text and the calls that are now certain. ``last``: no more comes."""
        if self._parser is None:
            return text, []
        certain, found = self._parser.feed(text)
        calls = list(found)
        if last:
            rest, more = self._parser.finish()
            certain, calls = certain + rest, [*calls, *more]
        calls = calls if self._most is None else calls[: self._most - self.n_calls]
        self.n_calls += len(calls)
        return certain, calls


def call_shape(call: ToolCall) -> JSON:
    """Return a call as OpenAI writes it."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _index(name: str, names: Sequence[str]) -> int:
    if name not in names:
        near = get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RequestError(f"there is no tool {name!r}{hint}", param="tool_choice.function.name")
    return names.index(name)
