"""Read the tools of the Responses API, which are flat or in namespaces, and convert them to those of chat completions.

Tools that are not functions are left out: clients offer those of OpenAI's servers to every server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llamafw import RequestError
from llamafw_plugins.endpoints.response_json import JSON

FIELDS = ("name", "description", "parameters", "strict")
_SEPARATOR = "__"  # between a namespace and the name of a function in it


@dataclass(slots=True)
class FunctionTools:
    """The functions that a request offers, and the tools that it offers in vain."""

    functions: list[JSON] = field(default_factory=list)  # with the names that the model reads
    origins: list[str] = field(default_factory=list)  # the field of each: "tools.3", or "tools.3.tools.1"
    described: list[JSON] = field(default_factory=list)  # as the response repeats them: with all fields
    namespaces: dict[str, tuple[str, str]] = field(default_factory=dict)  # name for the model → namespace and name
    skipped: dict[str, str] = field(default_factory=dict)  # field → type of a tool that this server lacks

    def chat_tools(self) -> list[JSON]:
        """Return the functions in the format of chat completions."""
        return [
            {"type": "function", "function": {name: tool[name] for name in FIELDS if tool.get(name) is not None}}
            for tool in self.functions
        ]


def read_tools(tools: Sequence[JSON]) -> FunctionTools:
    """Return the functions among a request's tools.

    Raises
    ------
    RequestError
        A function or a namespace lacks a field.
    """
    result = FunctionTools()
    for i, tool in enumerate(tools):
        origin = f"tools.{i}"
        if tool["type"] == "namespace":
            _require(tool, ("name", "tools"), origin)
            described = []
            for k, inner in enumerate(tool["tools"]):
                described += _add(result, inner, f"{origin}.tools.{k}", tool["name"])
            head = {"type": "namespace", "name": tool["name"], "description": tool.get("description") or ""}
            result.described.append({**head, "tools": described})
        else:
            result.described += _add(result, tool, origin, None)
    return result


def _add(result: FunctionTools, tool: JSON, origin: str, namespace: str | None) -> list[JSON]:
    """Add a function; return its description, or nothing if it is another tool."""
    if tool["type"] != "function":
        result.skipped[origin] = tool["type"]
        return []

    _require(tool, ("name",), origin)
    name = function_name(namespace, tool["name"])
    if namespace is not None:
        result.namespaces[name] = namespace, tool["name"]
    result.functions.append({**tool, "name": name})
    result.origins.append(origin)
    return [{"type": "function", **{name: tool.get(name) for name in FIELDS}}]


def function_name(namespace: str | None, name: str) -> str:
    """Return the name of a function for the model, which knows no namespaces."""
    if not namespace:
        return name
    return namespace + name if namespace.endswith(_SEPARATOR) else namespace + _SEPARATOR + name


def check_choice(choice: Any) -> None:
    """Raise RequestError if a ``tool_choice`` is of a type that this server lacks."""
    if not isinstance(choice, dict):
        return
    if choice["type"] == "allowed_tools":
        _require(choice, ("mode", "tools"), "tool_choice")
        for i, tool in enumerate(choice["tools"]):
            if tool["type"] != "function":
                message = f"a tool of the type {tool['type'][:40]!r} is not supported; this server has 'function' only"
                raise RequestError(message, param=f"tool_choice.tools.{i}.type")
            _require(tool, ("name",), f"tool_choice.tools.{i}")
    elif choice["type"] == "function":
        _require(choice, ("name",), "tool_choice")
    else:
        message = f"a tool_choice of the type {choice['type'][:40]!r} is not supported"
        raise RequestError(f"{message}; this server has 'function' and 'allowed_tools'", param="tool_choice.type")


def _require(value: Mapping[str, Any], names: Sequence[str], param: str) -> None:
    for name in names:
        if name not in value:
            raise RequestError(f"{param}.{name} is required", param=f"{param}.{name}")


def chat_choice(choice: Any) -> Any:
    """Return a checked ``tool_choice`` in the format of chat completions."""
    if not isinstance(choice, dict):
        return choice
    if choice["type"] == "allowed_tools":
        allowed = [_chosen(tool) for tool in choice["tools"]]
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice["mode"], "tools": allowed}}
    return _chosen(choice)


def _chosen(tool: JSON) -> JSON:
    return {"type": "function", "function": {"name": tool["name"]}}
