"""Find out how a model reasons, by rendering conversations with its chat template: tags, fields and switches."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llamafw.engine.probe_messages import (
    ANSWER,
    REASONING,
    RESULT,
    TOOL,
    USER,
    USER2,
    Message,
    arguments_of,
    call,
    ids_of,
    message,
)
from llamafw.interfaces import Tokenizer
from llamafw.types import ChatCapabilities, ReasoningTags

if TYPE_CHECKING:
    from llamafw.engine.chat_probe import Prober

KNOWN_TAGS = (
    ReasoningTags("<think>", "</think>"),
    ReasoningTags("[THINK]", "[/THINK]"),
    ReasoningTags(
        "<|channel|>analysis<|message|>", "<|end|>", "<|start|>assistant<|channel|>final<|message|>"
    ),  # https://developers.openai.com/cookbook/articles/openai-harmony
    ReasoningTags("<|START_THINKING|>", "<|END_THINKING|>"),
    ReasoningTags("<seed:think>", "</seed:think>"),
    ReasoningTags("<|channel>thought", "<channel|>"),
    ReasoningTags("<|inner_prefix|>", "<|inner_suffix|>"),
    ReasoningTags("◁think▷", "◁/think▷"),
    ReasoningTags("<thought>", "</thought>"),
    ReasoningTags("<mm:think>", "</mm:think>"),
    ReasoningTags("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
    ReasoningTags("Here is my thought process:", "Here is my response:"),
)
"""Tags of well-known models; others are found if the template writes the reasoning of earlier answers."""

FIELDS = ("reasoning_content", "reasoning", "thinking")
SWITCHES = ("enable_thinking", "thinking")
_TAG_BEFORE = re.compile(r"(<[^<>\s]{2,40}>|\[[A-Za-z_]{2,40}\])\s*$")
_TAG_AFTER = re.compile(r"\s*(<[^<>\s]{2,40}>|\[/?[A-Za-z_]{2,40}\])")
_MEANS_REASONING = re.compile("think|thought|reason|analysis", re.IGNORECASE)


def probe_reasoning(prober: Prober, found: ChatCapabilities, tokenizer: Tokenizer | None) -> ChatCapabilities:
    """Return ``found`` with what a template does with reasoning.

    Parameters
    ----------
    prober : Prober
        Renders conversations.
    found : ChatCapabilities
        What is known about the template.
    tokenizer : Tokenizer, optional
        The model's tokenizer.
    """
    user = message(found, "user", USER)
    found = _probe_switches(prober, found, [user])
    field, prompt = _find_field(prober, found)
    tags = _tags_around(prompt) if prompt is not None else None
    tags = tags or _inline_tags(prober, found) or _tags_of_start(prober, found, [user])
    if tags is None and tokenizer is not None:
        tags = next((tags for tags in KNOWN_TAGS if _has_tokens(tokenizer, tags)), None)
    if tags is None:
        return replace(found, reasoning_field=field)

    start = prober.render([user], start=True) or ""
    return replace(
        found,
        reasoning=tags,
        reasoning_field=field,
        reasoning_with_text=field is None or _shows_reasoning(prober, found, field, ANSWER),
        preserves_reasoning=field is not None and _preserves(prober, found, field),
        opens_reasoning=ends_with_tag(start, tags.start),
    )


def ends_with_tag(prompt: str, tag: str) -> bool:
    """Return whether a prompt ends with a tag; white space after it does not matter."""
    return prompt.rstrip().endswith(tag.strip())


def _probe_switches(prober: Prober, found: ChatCapabilities, messages: Sequence[Any]) -> ChatCapabilities:
    """Find the variables that switch thinking on and off and that set its effort."""

    def differs(name: str, *values: Any) -> bool:
        prompts = [prober.render(messages, start=True, **{name: value}) for value in values]
        return None not in prompts and len(set(prompts)) > 1

    return replace(
        found,
        thinking_switch=next((name for name in SWITCHES if differs(name, True, False)), None),
        reasoning_effort=differs("reasoning_effort", "low", "high"),
    )


def _with_reasoning(found: ChatCapabilities, field: str, text: str, **fields: Any) -> Message:
    """Return an earlier answer with reasoning in a field."""
    if field == "parts":
        parts: list[Any] = [{"type": "thinking", "thinking": REASONING}]
        parts += [{"type": "text", "text": text}] if text else []
        return {"role": "assistant", "content": parts, **fields}
    return message(found, "assistant", text, **{field: REASONING}, **fields)


def _conversations(found: ChatCapabilities, field: str, text: str) -> list[list[Message]]:
    """Return conversations whose last turn has reasoning in a field: an answer, and a call with its result."""
    user = message(found, "user", USER)
    conversations = [[user, _with_reasoning(found, field, text or ANSWER)]]
    if found.tool_calls:
        id = ids_of(found)[0]
        result = {"role": "tool", "tool_call_id": id, "name": TOOL, "content": RESULT}
        asked = _with_reasoning(found, field, text, tool_calls=[call(TOOL, id, arguments_of(found))])
        conversations.append([user, asked, result] if found.tool_results else [user, asked])
    return conversations


def _find_field(prober: Prober, found: ChatCapabilities) -> tuple[str | None, str | None]:
    """Return the field whose text appears in the prompt, and that prompt."""
    on = _switched_on(found)
    for field in (*FIELDS, "parts"):
        for conversation in _conversations(found, field, ""):
            for variables in ({}, on) if on else ({},):
                prompt = prober.render(conversation, **variables)
                if prompt is None or REASONING not in prompt:
                    continue
                if field != "parts" or not re.search(r"""['"]thinking['"]\s*:""", prompt):
                    return field, prompt
    return None, None


def _shows_reasoning(prober: Prober, found: ChatCapabilities, field: str, text: str) -> bool:
    """Return whether both the reasoning and the text of a message with calls appear."""
    *_, conversation = _conversations(found, field, text)
    return prober.shows(conversation, REASONING, text, **_switched_on(found))


def _switched_on(found: ChatCapabilities) -> dict[str, Any]:
    """Return the variables that switch thinking on."""
    return {found.thinking_switch: True} if found.thinking_switch else {}


def _preserves(prober: Prober, found: ChatCapabilities, field: str) -> bool:
    """Return whether the reasoning of an earlier turn appears."""
    first, second = message(found, "user", USER), message(found, "user", USER2)
    conversation = [first, _with_reasoning(found, field, ANSWER), second]
    return prober.shows(conversation, REASONING, **_switched_on(found))


def _tags_around(prompt: str) -> ReasoningTags | None:
    """Return the tags around the marked reasoning in a prompt."""
    before, _, after = prompt.partition(REASONING)
    for tags in KNOWN_TAGS:
        if ends_with_tag(before, tags.start) and after.lstrip().startswith(tags.end):
            return tags
    start, end = _TAG_BEFORE.search(before), _TAG_AFTER.match(after)
    return ReasoningTags(start[1], end[1]) if start and end and _MEANS_REASONING.search(start[1]) else None


def _inline_tags(prober: Prober, found: ChatCapabilities) -> ReasoningTags | None:
    """Return the tags that the template removes from earlier answers, together with the text between them."""
    first, second = message(found, "user", USER), message(found, "user", USER2)
    for tags in KNOWN_TAGS:
        answer = message(found, "assistant", f"{tags.start}{REASONING}{tags.end}{ANSWER}")
        prompt = prober.render([first, answer, second])
        if prompt is not None and ANSWER in prompt and REASONING not in prompt:
            return tags
    return None


def _tags_of_start(prober: Prober, found: ChatCapabilities, messages: Sequence[Any]) -> ReasoningTags | None:
    """Return the tags that the start of an answer has, if thinking is on or off."""
    switch = found.thinking_switch
    settings: list[dict[str, Any]] = [{}]
    settings += [{switch: on} for on in (True, False)] if switch else []
    prompts = [prober.render(messages, start=True, **variables) or "" for variables in settings]
    for prompt in prompts:
        prompt = prompt.rpartition(USER)[2]
        for tags in KNOWN_TAGS:
            if ends_with_tag(prompt, tags.start) or (tags.start in prompt and ends_with_tag(prompt, tags.end)):
                return tags
    for tags in KNOWN_TAGS:  # the instructions may explain them when thinking is on
        if switch and tags.start in prompts[1] and tags.end in prompts[1] and tags.start not in prompts[2]:
            return tags
    return None


def _has_tokens(tokenizer: Tokenizer, tags: ReasoningTags) -> bool:
    """Return whether each of two tags is one token."""
    return all(len(tokenizer.encode(tag, parse_special=True)) == 1 for tag in (tags.start, tags.end))
