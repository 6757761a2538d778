"""Describe a request in the response to it: the members that are known before the model answers."""

from __future__ import annotations

import time
from secrets import token_hex

from llamafw import GenerateRequest, LoadedModel
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.responses.function_tools import FunctionTools


def response_head(
    body: JSON, request: GenerateRequest, loaded: LoadedModel, tools: FunctionTools, *, store: bool
) -> JSON:
    """Return the members of a response that do not depend on the answer.

    Parameters
    ----------
    body : dict
        The validated body of the request.
    request : GenerateRequest
        What the engine was asked for. Options of samplers are reported as they are used.
    loaded : LoadedModel
        The model.
    tools : FunctionTools
        The tools that it offers.
    store : bool
        Whether the response is stored.
    """
    reasoning, text = body.get("reasoning") or {}, body.get("text") or {}
    return {
        "id": f"resp_{token_hex(24)}",
        "object": "response",
        "created_at": int(time.time()),
        "background": bool(body.get("background")),
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": body.get("max_tool_calls"),
        "metadata": body.get("metadata") or {},
        "model": body.get("model") or loaded.name,
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "previous_response_id": body.get("previous_response_id"),
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": summary_kind(body)},
        "safety_identifier": body.get("safety_identifier"),
        "service_tier": "default",
        "store": store,
        "temperature": request.options.get("temperature"),
        "text": {"format": text.get("format") or {"type": "text"}, "verbosity": text.get("verbosity")},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": tools.described,
        "top_logprobs": request.n_probs,
        "top_p": request.options.get("top_p"),
        "truncation": body.get("truncation") or "disabled",
        "user": body.get("user"),
    }


def summary_kind(body: JSON) -> str | None:
    """Return the kind of summary that a request asks for, or None."""
    reasoning = body.get("reasoning") or {}
    kind: str | None = reasoning.get("summary") or reasoning.get("generate_summary")
    return kind
