"""What a chat template can do, and how a model marks its reasoning."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReasoningTags:
    """The texts that a model writes around its reasoning."""

    start: str  # "<think>"
    end: str  # "</think>"
    answer: str = ""  # what introduces the answer after ``end``, for formats that always write it


@dataclass(frozen=True, slots=True)
class ChatCapabilities:
    """What the chat template of a model can do, found by rendering short conversations.

    The defaults are those of a template that could not be probed: it gets conversations as they are.
    """

    turns: bool = True  # several turns appear in the prompt
    string_content: bool = True  # a user's content may be a text
    typed_content: bool = False  # it may be an array of parts
    parts_only: frozenset[str] = frozenset()  # roles whose content must be an array of parts
    system: bool = True  # a system message may be the first message
    only_system: bool = True  # a conversation may have nothing but system messages
    late_system: bool = True  # system messages may be anywhere
    developer: bool = False  # the template has a role `developer` of its own
    repeated_roles: bool = True  # two messages of the same role may follow each other
    empty_answers: bool = True  # an answer may be empty
    assistant_first: bool = True  # the first message may be an answer
    user_after_result: bool = True  # a user's message may follow the result of a call
    tools: bool = False  # tools are written into the prompt
    no_tools: bool = True  # without tools, the variable `tools` may be None; otherwise an empty array
    bare_tools: bool = True  # tools may lack a description and parameters
    tool_calls: bool = False  # earlier calls are written into the prompt
    object_arguments: bool = True  # arguments of calls are objects; otherwise JSON texts
    text_arguments: bool = True  # arguments that are not JSON may be texts
    parallel_calls: bool = True  # a message may have several calls
    text_with_calls: bool = True  # a message may have content and calls
    null_content: bool = False  # the content of a message with nothing but calls must be None
    short_ids: bool = False  # ids of calls must have nine letters and digits
    tool_results: bool = False  # messages of the role `tool` are written into the prompt
    reasoning: ReasoningTags | None = None  # None: the model is not known to reason
    reasoning_field: str | None = None  # field of earlier answers that holds their reasoning; "parts": part `thinking`
    reasoning_with_text: bool = True  # a message with calls may have both reasoning and content
    preserves_reasoning: bool = False  # the reasoning of earlier turns appears in the prompt
    thinking_switch: str | None = None  # variable that switches thinking on and off
    reasoning_effort: bool = False  # the variable `reasoning_effort` changes the prompt
    opens_reasoning: bool = False  # the prompt ends within the reasoning of the answer


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How a response may begin with reasoning."""

    tags: ReasoningTags  # the texts around it
    opened: bool = False  # the prompt ends within the reasoning
    budget: int = -1  # maximum tokens of reasoning; then its end is forced. -1: no limit
    message: str = ""  # text before the end tag if the end is forced
