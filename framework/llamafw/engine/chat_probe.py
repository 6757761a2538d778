"""Find out what a chat template can do, by rendering short conversations with marked texts.

Independent of the language of templates: it only looks at prompts. What a model writes around its reasoning is found by
`llamafw.engine.reasoning_probe`.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llamafw.engine.probe_messages import (
    ANSWER,
    ANSWER2,
    FIELD,
    ID,
    RESULT,
    RESULT2,
    SYSTEM,
    TOOL,
    TOOL2,
    USER,
    USER2,
    VALUE,
    Message,
    arguments_of,
    call,
    ids_of,
    message,
)
from llamafw.engine.reasoning_probe import probe_reasoning
from llamafw.errors import FAULTS, RequestError
from llamafw.interfaces import ChatFormat, Tokenizer
from llamafw.types import ChatCapabilities

MAX_SECONDS = 0.5  # processor time of all conversations together
DESCRIPTION, PARAMETER = "probedescription", "probeparameter"
OTHER_ROLE, OTHER_TOOL_ROLE = "deputy", "tinker"  # begin like `developer` and `tool`, if a template prints initials

FULL_TOOL = {
    "type": "function",
    "function": {
        "name": TOOL,
        "description": DESCRIPTION,
        "parameters": {
            "type": "object",
            "properties": {PARAMETER: {"type": "string", "description": "A word."}},
            "required": [PARAMETER],
        },
    },
}
BARE_TOOL = {"type": "function", "function": {"name": TOOL}}


class Prober:
    """Renders conversations and looks for texts in the prompts.

    Parameters
    ----------
    chat : ChatFormat
        The template.
    """

    def __init__(self, chat: ChatFormat) -> None:
        self._chat, self._deadline = chat, time.thread_time() + MAX_SECONDS
        self.expired = False  # whether the time was used up
        self.defaults: dict[str, Any] = {}  # variables of every rendering

    def render(self, messages: Sequence[Message], *, start: bool = False, **variables: Any) -> str | None:
        """Return a prompt; None if the template fails or refuses.

        Parameters
        ----------
        messages : sequence of mapping
            The conversation.
        start : bool
            Whether the prompt ends with the start of an answer.
        **variables
            Variables of the template.
        """
        if time.thread_time() > self._deadline:
            self.expired = True
            return None
        try:
            given = {**self.defaults, **{name: value for name, value in variables.items() if value is not None}}
            return self._chat.render(copy.deepcopy(list(messages)), add_generation_prompt=start, **copy.deepcopy(given))
        except (RequestError, *FAULTS):
            return None

    def shows(self, messages: Sequence[Message], *texts: str, **variables: Any) -> bool:
        """Return whether the prompt of a conversation has all ``texts``."""
        prompt = self.render(messages, **variables)
        return prompt is not None and all(text in prompt for text in texts)


def probe_chat(chat: ChatFormat, tokenizer: Tokenizer | None = None) -> ChatCapabilities:
    """Return what a chat template can do.

    Never fails: a template that refuses a conversation cannot do what the conversation needs. A template that takes too
    long is taken for one that can do everything.

    Parameters
    ----------
    chat : ChatFormat
        The template.
    tokenizer : Tokenizer, optional
        Its vocabulary may name tags of reasoning that the template does not know.
    """
    prober = Prober(chat)
    user = [{"role": "user", "content": USER}]
    no_tools = prober.render(user) is not None or prober.render(user, tools=[]) is None
    if not no_tools:
        prober.defaults["tools"] = []

    found = replace(_probe_contents(prober), no_tools=no_tools)
    found = _probe_roles(prober, found)
    found = _probe_tools(prober, found)
    found = _probe_calls(prober, found)
    found = probe_reasoning(prober, found, tokenizer)
    return ChatCapabilities() if prober.expired else found


def _probe_contents(prober: Prober) -> ChatCapabilities:
    """Find out which roles want their content as a text, and which as parts."""
    found = ChatCapabilities()
    text, parts = _shows_content(prober, "user", found)
    found = replace(found, string_content=text or not parts, typed_content=parts)
    if parts and not text:
        found = replace(found, parts_only=frozenset({"user"}))
    for role in ("system", "assistant"):
        text, parts = _shows_content(prober, role, found)
        if parts and not text:
            found = replace(found, parts_only=found.parts_only | {role})
    return found


def _shows_content(prober: Prober, role: str, found: ChatCapabilities) -> tuple[bool, bool]:
    """Return whether the content of a role appears as a text, and as parts."""
    marked = {"system": SYSTEM, "assistant": ANSWER, "user": USER}[role]
    shown = []
    contents: tuple[Any, ...] = (marked, [{"type": "text", "text": marked}])
    for content in contents:
        middle: Message = {"role": role, "content": content}
        user = message(found, "user", USER2)
        conversations = {"system": [middle, user], "assistant": [user, middle, user], "user": [middle]}
        prompt = prober.render(conversations[role])
        printed = prompt is not None and re.search(r"""['"]text['"]\s*:\s*['"]""" + marked, prompt)
        shown.append(prompt is not None and marked in prompt and not printed)
    return shown[0], shown[1]


def _probe_roles(prober: Prober, found: ChatCapabilities) -> ChatCapabilities:
    """Find out which roles there are, and in which order they may be."""
    user, user2 = message(found, "user", USER), message(found, "user", USER2)
    answer, answer2 = message(found, "assistant", ANSWER), message(found, "assistant", ANSWER2)
    system = message(found, "system", SYSTEM)

    late = [[user, answer, system, user2], [system, message(found, "system", "probeextra"), user]]
    repeated = [[user, user2], [user, answer, answer2, user2]]
    return replace(
        found,
        turns=prober.shows([user, answer, user2], USER, ANSWER, USER2),
        system=prober.shows([system, user], SYSTEM, USER),
        only_system=prober.shows([system], SYSTEM),
        late_system=prober.shows(late[0], SYSTEM, USER, USER2) and prober.shows(late[1], SYSTEM, "probeextra", USER),
        developer=_knows_developer(prober, user),
        repeated_roles=prober.shows(repeated[0], USER, USER2) and prober.shows(repeated[1], ANSWER, ANSWER2),
        empty_answers=prober.shows([user, message(found, "assistant", ""), user2], USER, USER2),
        assistant_first=prober.shows([answer, user], ANSWER, USER),
    )


def _knows_developer(prober: Prober, user: Message) -> bool:
    """Return whether the role `developer` means something to the template; many print the name of any role."""
    developer = prober.render([{"role": "developer", "content": SYSTEM}, user])
    if developer is None or SYSTEM not in developer or USER not in developer:
        return False
    other = prober.render([{"role": OTHER_ROLE, "content": SYSTEM}, user])
    return other is None or other.replace(OTHER_ROLE, "developer") != developer


def _knows_results(prober: Prober, found: ChatCapabilities) -> bool:
    """Return whether the role `tool` means something to a template that has no calls."""
    result = {"role": "tool", "tool_call_id": ID, "name": TOOL, "content": RESULT}
    before = [message(found, "user", USER), message(found, "assistant", ANSWER)]
    tool, other = (prober.render([*before, {**result, "role": role}]) for role in ("tool", OTHER_TOOL_ROLE))
    if tool is None or RESULT not in tool:
        return False
    return other is None or other.replace(OTHER_TOOL_ROLE, "tool") != tool


def _probe_tools(prober: Prober, found: ChatCapabilities) -> ChatCapabilities:
    user = [message(found, "user", USER)]
    return replace(
        found,
        tools=prober.shows(user, TOOL, PARAMETER, USER, tools=[FULL_TOOL]),
        bare_tools=prober.shows(user, TOOL, USER, tools=[BARE_TOOL]) or not prober.shows(user, TOOL, tools=[FULL_TOOL]),
    )


def _probe_calls(prober: Prober, found: ChatCapabilities) -> ChatCapabilities:
    """Find out in which form earlier calls and their results appear."""
    user, tools = message(found, "user", USER), [FULL_TOOL] if found.tools else None
    for short in (False, True):
        for results in (True, False):
            tried = replace(found, short_ids=short, tool_results=results)
            if forms := _probe_arguments(prober, tried, tools):
                return _probe_several_calls(prober, forms[0], user, tools)
    return replace(found, tool_results=_knows_results(prober, found))


def _probe_arguments(prober: Prober, found: ChatCapabilities, tools: Any) -> list[ChatCapabilities]:
    """Return ``found`` with the form in which calls must be given, best first; empty if they do not appear."""
    forms, prompts = [], []
    for null in (False, True):
        tried = replace(found, null_content=null)
        objects, texts = (_render_call(prober, tried, form, tools) for form in (True, False))
        if objects is not None or texts is not None:
            as_text = texts is not None or objects is None
            forms.append(replace(tried, tool_calls=True, object_arguments=objects is not None, text_arguments=as_text))
            prompts.append(objects or texts)
    return forms[::-1] if len(set(prompts)) > 1 else forms


def _render_call(prober: Prober, found: ChatCapabilities, as_object: bool, tools: Any) -> str | None:
    """Return the prompt of an earlier call if its arguments appear as they should: as JSON that is not escaped."""
    found = replace(found, object_arguments=as_object)
    id = ids_of(found)[0]
    messages = [
        message(found, "user", USER),
        message(found, "assistant", "", tool_calls=[call(TOOL, id, arguments_of(found))]),
        {"role": "tool", "tool_call_id": id, "name": TOOL, "content": RESULT},
    ]
    wanted = [TOOL, FIELD, VALUE, RESULT] if found.tool_results else [TOOL, FIELD, VALUE]
    prompt = prober.render(messages if found.tool_results else messages[:2], tools=tools)
    if prompt is None or not all(text in prompt for text in wanted):
        return None
    if found.null_content and re.search("None|null", prompt.rpartition(USER)[2]):
        return None
    return None if f"'{FIELD}'" in prompt or f'\\"{FIELD}' in prompt else prompt


def _probe_several_calls(prober: Prober, found: ChatCapabilities, user: Message, tools: Any) -> ChatCapabilities:
    ids, arguments = ids_of(found), arguments_of(found)
    calls = [call(name, id, arguments) for name, id in zip((TOOL, TOOL2), ids, strict=True)]
    results: list[Message] = [
        {"role": "tool", "tool_call_id": id, "name": name, "content": text}
        for id, name, text in zip(ids, (TOOL, TOOL2), (RESULT, RESULT2), strict=True)
    ]
    shown = [RESULT, RESULT2]
    if not found.tool_results:
        results, shown = [], []

    again = [user, message(found, "assistant", "", tool_calls=calls[:1]), *results[:1]]
    both = [user, message(found, "assistant", "", tool_calls=calls), *results]
    with_text = [user, message(found, "assistant", ANSWER, tool_calls=calls[:1]), *results[:1]]
    prompt = prober.render(both, tools=tools) or ""
    once = prober.render([user], tools=tools) or ""
    return replace(
        found,
        parallel_calls=prompt.count(TOOL) > once.count(TOOL) and all(text in prompt for text in (TOOL2, *shown)),
        user_after_result=prober.shows([*again, message(found, "user", USER2)], USER, USER2, VALUE, tools=tools),
        text_with_calls=all(
            prober.shows([*with_text, *more], ANSWER, VALUE, tools=tools)
            for more in ([], [message(found, "assistant", ANSWER2), message(found, "user", USER2)])
        ),
    )
