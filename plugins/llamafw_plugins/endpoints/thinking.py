"""Read how a chat request wants the model to reason: on or off, how much, and where the reasoning goes.

Independent of templates' texts: `llamafw.ChatCapabilities` says which variables a template has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llamafw import ChatCapabilities, RequestError, Settings
from llamafw_plugins.endpoints.response_json import JSON

SWITCHES = ("enable_thinking", "thinking")  # names that templates have for the same variable
OFF = ("disabled", "off", "none")  # types of the field `thinking` that switch it off
LITTLE = ("none", "minimal", "default")  # efforts that do not switch thinking on
ABOVE_HIGH = ("xhigh", "max")  # efforts of other APIs
RESERVED_VARIABLES = ("messages", "add_generation_prompt", "tools", "documents", "bos_token", "eos_token")


@dataclass(frozen=True, slots=True)
class Thinking:
    """How one answer may reason."""

    variables: Mapping[str, Any]  # variables of the chat template
    budget: int  # maximum tokens of reasoning; -1: no limit, 0: none
    message: str  # text before the end tag if the budget ends the reasoning
    format: str  # where reasoning goes: auto, none, deepseek, deepseek-legacy


def read_thinking(body: JSON, settings: Settings, can: ChatCapabilities) -> Thinking:
    """Return how the answer to a validated request may reason.

    The request's `chat_template_kwargs` come first, then its other fields, then the server's flags.

    Raises
    ------
    RequestError
        A variable belongs to the server, or has a wrong type.
    """
    own = dict(body.get("chat_template_kwargs") or {})
    for name in own:
        if name in RESERVED_VARIABLES:
            message = f"the server sets the variable {name}; a request cannot replace it"
            raise RequestError(message, param=f"chat_template_kwargs.{name}")

    requested = _requested_switch(body, own)
    budget, asked_for_budget = _budget(body, settings)
    enabled = requested
    if enabled is None and budget == 0:
        enabled = False
    elif enabled is None:
        enabled = settings.reasoning
    if requested and not asked_for_budget and budget == 0:
        budget = -1

    effort = body.get("reasoning_effort") or settings.reasoning_effort
    variables = dict(settings.chat_template_kwargs or {})
    if effort not in (None, "none", "default"):
        variables["reasoning_effort"] = effort
    if enabled is not None and can.thinking_switch is not None:
        variables[can.thinking_switch] = enabled
    return Thinking(
        variables={**variables, **own},
        budget=0 if enabled is False else budget,
        message=body.get("reasoning_budget_message") or settings.reasoning_budget_message,
        format=body.get("reasoning_format") or settings.reasoning_format,
    )


def known_effort(effort: str) -> str:
    """Return an effort that chat templates know: ``high`` for those above it."""
    return "high" if effort in ABOVE_HIGH else effort


def _requested_switch(body: JSON, own: Mapping[str, Any]) -> bool | None:
    """Return whether the request switches thinking on or off; None if it says nothing."""
    for name in SWITCHES:
        if name in own and own[name] is not None:
            if not isinstance(own[name], bool):
                raise RequestError(f"{name} must be true or false", param=f"chat_template_kwargs.{name}")
            return bool(own[name])

    if body.get("enable_thinking") is not None:
        return bool(body["enable_thinking"])
    thinking = body.get("thinking")
    if isinstance(thinking, bool):
        return thinking
    if isinstance(thinking, dict):
        return None if thinking["type"] in ("auto", "adaptive") else thinking["type"] not in OFF

    effort = body.get("reasoning_effort")
    if effort == "none":
        return False
    return True if effort is not None and effort not in LITTLE else None


def _budget(body: JSON, settings: Settings) -> tuple[int, bool]:
    """Return the maximum number of tokens of reasoning, and whether the request sets it.

    -1 in a request means the server's limit, as for llama-server.
    """
    thinking = body.get("thinking")
    given = [body.get("reasoning_budget_tokens"), body.get("thinking_budget_tokens")]
    given.append(thinking.get("budget_tokens") if isinstance(thinking, dict) else None)
    requested = next((int(value) for value in given if value is not None and value >= 0), None)
    return (settings.reasoning_budget, False) if requested is None else (requested, True)
