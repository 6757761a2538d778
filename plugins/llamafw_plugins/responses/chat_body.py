"""Convert the body of a request to that of a chat completion, and errors about the latter back."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager

from llamafw import App, Call, RequestError
from llamafw_plugins.endpoints.chat_requests import errors_about_request
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.responses.function_tools import FunctionTools, chat_choice
from llamafw_plugins.responses.messages import Messages

MAX_METADATA_KEY = 64  # characters
NOT_SUPPORTED = {
    "conversation": "use previous_response_id, or send the whole conversation in input",
    "prompt": "this server stores no prompt templates; send the prompt in instructions and input",
    "moderation": "this server has no moderation model",
}
"""Fields that this server lacks → what to do without them."""

WITHOUT_EFFECT = (("text", "verbosity"), ("reasoning", "context"), ("reasoning", "mode"))
"""Members of fields that this server ignores. It names them in the response's headers."""

OWN_FIELDS = (
    *NOT_SUPPORTED,
    "input",
    "instructions",
    "previous_response_id",
    "store",
    "background",
    "include",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "reasoning",
    "safety_identifier",
    "prompt_cache_key",
    "service_tier",
    "stream_options",
    "text",
    "tool_choice",
    "tools",
    "truncation",
)
"""Fields that chat completions do not have, or have in another format."""

_TOOL_PARAM = re.compile(r"tools\.(\d+)(?:\.function)?(.*)")
LOGPROBS = "message.output_text.logprobs"  # a value of `include`
_RENAMED = (
    (re.compile(r"\bresponse_format(\.json_schema)?"), "text.format"),
    (re.compile(r"^max_completion_tokens$"), "max_output_tokens"),
    (re.compile(r"^tool_choice\.function"), "tool_choice"),
    (re.compile(r"^tool_choice\.allowed_tools\.tools\.(\d+)\.function"), r"tool_choice.tools.\1"),
    (re.compile(r"^reasoning_effort$"), "reasoning.effort"),
    (re.compile(r"^(prompt|messages)$"), "input"),
)
"""Paths of fields of chat completions → those of the same fields here."""


def refuse_fields(body: JSON) -> None:
    """Raise RequestError if a request uses a field that this server lacks, or one in a wrong way."""
    for name, advice in NOT_SUPPORTED.items():
        if body.get(name) is not None:
            raise RequestError(f"{name} is not supported: {advice}", param=name)
    for key in body.get("metadata") or ():
        if len(key) > MAX_METADATA_KEY:
            message = f"the keys of metadata must have at most {MAX_METADATA_KEY} characters"
            raise RequestError(message, param="metadata")


def report_ignored(call: Call, app: App, tools: FunctionTools) -> None:
    """Name what has no effect in the response's headers: members of fields, and tools that are not functions.

    Raises
    ------
    RequestError
        There is something, and the server has ``--strict-fields``.
    """
    for name, kind in tools.skipped.items():
        if app.settings.strict_fields:
            message = f"a tool of the type {kind[:40]!r} is not supported; this server has 'function' only"
            raise RequestError(message, param=f"{name}.type")
        call.ignored.append(name)
    for field, member in WITHOUT_EFFECT:
        if (call.body.get(field) or {}).get(member) is not None:
            name = f"{field}.{member}"
            if app.settings.strict_fields:
                raise RequestError(f"{name} is not supported by this server", param=name)
            call.ignored.append(name)


def wants_logprobs(body: JSON) -> bool:
    """Return whether a request asks for the log-probabilities of tokens."""
    return LOGPROBS in (body.get("include") or ()) or bool(body.get("top_logprobs"))


def chat_body(body: JSON, conversation: Messages, tools: FunctionTools) -> JSON:
    """Return the body of the chat completion that answers a request."""
    chat = {name: value for name, value in body.items() if name not in OWN_FIELDS}
    chat["messages"] = conversation.messages
    chat["tools"], chat["tool_choice"] = tools.chat_tools(), chat_choice(body.get("tool_choice"))
    chat["logprobs"] = wants_logprobs(body)
    chat["continue_final_message"] = False  # an answer at the end of the input is complete
    if body.get("max_output_tokens") is not None:
        chat["max_completion_tokens"] = body["max_output_tokens"]
    if body.get("truncation") == "auto":
        chat["truncate_prompt"] = True
    if (effort := (body.get("reasoning") or {}).get("effort")) is not None:
        chat["reasoning_effort"] = effort
    if (format := (body.get("text") or {}).get("format")) is not None:
        chat["response_format"] = _response_format(format)
    return {name: value for name, value in chat.items() if value is not None}


def _response_format(format: JSON) -> JSON:
    if format["type"] != "json_schema":
        return {"type": format["type"]}
    members = {name: format[name] for name in ("name", "schema", "description", "strict") if name in format}
    return {"type": "json_schema", "json_schema": members}


def errors_about(conversation: Messages, tools: FunctionTools) -> AbstractContextManager[None]:
    """Return a context in which errors about the chat body become errors about the request of a conversation."""

    def locate(param: str) -> str:
        """Return the path of a message or of a tool in the request."""
        param = conversation.locate(param)
        found = _TOOL_PARAM.fullmatch(param)
        return param if found is None else tools.origins[int(found[1])] + found[2]

    return errors_about_request(locate, _RENAMED)
