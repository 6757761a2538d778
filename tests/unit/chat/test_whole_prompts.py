"""Prompts have all of a conversation, though probing did not find out everything about the template."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace
from typing import Any

import pytest

from llamafw import RequestError, Settings, ToolContext
from llamafw_plugins.endpoints.template import render
from llamafw_plugins.tool_parsers.command_r import CommandR
from llamafw_plugins.tool_parsers.deepseek import DeepSeekV3, DeepSeekV31
from llamafw_plugins.tool_parsers.hermes import Hermes
from support.chats import loaded_model, template

SYSTEM = {"role": "system", "content": "mksystem"}
USER = {"role": "user", "content": "mkuser"}
LATER = {"role": "user", "content": "mksecond"}
PARAMETERS: dict[str, Any] = {
    "properties": {
        "city": {"description": "A city.", "type": "string"},
        "days": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    },
    "type": "object",
}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}

ROLES = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
CALLS = "{% for c in m.tool_calls or [] %}<{{ c.function.name }}>{{ c.function.arguments|tojson }}{% endfor %}"


def call(id: str, city: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "get_weather", "arguments": json.dumps({"city": city})}}


def asked(text: str | None, *calls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, "tool_calls": list(calls), **fields}


def result(id: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": text}


def prompt_of(source: str, messages: list[dict[str, Any]], tools: Any = None) -> str:
    offered: Any = SimpleNamespace(offered=tuple(tools)) if tools else None
    return render({"messages": copy.deepcopy(messages)}, loaded_model(source), Settings(), offered).text


def missing(prompt: str, *texts: str) -> list[str]:
    return [text for text in texts if text not in prompt]


def test_text_beside_a_second_call_is_kept() -> None:
    source = (
        "{% for m in messages %}{% if m.tool_calls and loop.index0 > 1 %}" + CALLS + "{% else %}"
        "[{{ m.role }}]{{ m.content }}" + CALLS + "{% endif %}{% endfor %}"
    )
    messages = [
        USER,
        asked("mkone", call("a", "mkparis")),
        result("a", "mkrain"),
        asked("mktwo", call("b", "mkrome")),
        result("b", "mksun"),
    ]
    shown = ("mkuser", "mkone", "mkparis", "mkrain", "mktwo", "mkrome", "mksun")
    assert missing(prompt_of(source, messages, [TOOL]), *shown) == []


@pytest.mark.parametrize(
    "messages",
    [
        [SYSTEM, USER, asked("mktext", call("a", "mkparis")), result("a", "mkrain")],
        [SYSTEM, USER, asked("mktext", call("a", "mkparis")), result("a", "mkrain"), LATER],
        [SYSTEM, USER, asked("mktext", call("a", "mkparis")), LATER],
        [
            SYSTEM,
            USER,
            asked("mkone", call("a", "mkparis")),
            result("a", "mkrain"),
            asked("mktwo", call("b", "mkrome")),
            result("b", "mksun"),
        ],
    ],
    ids=["open call", "user after the result", "no result", "two rounds"],
)
@pytest.mark.parametrize("name", ["mistral-nemo", "ministral-3-reasoning", "gpt-oss", "deepseek-r1-distill-qwen"])
def test_system_messages_and_text_beside_calls_are_kept(name: str, messages: list[dict[str, Any]]) -> None:
    texts = [message["content"] for message in messages]
    assert missing(prompt_of(template(name), messages, [TOOL]), *texts, "mkparis") == []


def test_messages_that_a_template_drops_whatever_is_tried_are_refused() -> None:
    source = "{% for m in messages %}{% if loop.index0 != 4 %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"
    turns = [USER, {"role": "assistant", "content": "mkone"}, LATER, {"role": "assistant", "content": "mktwo"}, USER]
    assert missing(prompt_of(source, turns[:4]), "mkuser", "mkone", "mksecond", "mktwo") == []
    with pytest.raises(RequestError, match="drops this message") as raised:
        prompt_of(source, [*turns[:4], {"role": "user", "content": "mklost"}])
    assert raised.value.param == "messages.4"


def test_a_text_that_occurs_elsewhere_is_missed_too() -> None:
    source = "{% for m in messages[:-1] %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    with pytest.raises(RequestError, match="drops"):
        prompt_of(
            source, [{"role": "user", "content": "mkuser mksecond"}, {"role": "assistant", "content": "x"}, LATER]
        )


@pytest.mark.parametrize(
    ("written", "text", "shown"),
    [
        ("{{ m.content|upper }}", "mk text", "MK TEXT"),
        ("{{ m.content|tojson }}", 'mk "text"', '"mk \\"text\\""'),
        ("{{ m.content.split('</think>')[-1] }}", "<think>mk</think>", "[user]"),
        ("{{ m.content|trim }}", "  mk\n", "[user]mk"),
        ("{{ m.content|replace('\n', ' ') }}", "mk\ntext", "mk text"),
    ],
)
def test_texts_that_a_template_changes_are_not_missing(written: str, text: str, shown: str) -> None:
    source = "{% for m in messages %}[{{ m.role }}]" + written + "{% endfor %}"
    assert shown in prompt_of(source, [{"role": "user", "content": text}])


def test_the_reason_of_a_template_that_fails_is_given() -> None:
    source = ROLES + "{% if messages|length > 1 %}{{ messages.nothing.at_all }}{% endif %}"
    with pytest.raises(RequestError, match="has no attribute 'nothing'"):
        prompt_of(source, [USER, {"role": "assistant", "content": "mkone"}, LATER])


# --- the content of messages with nothing but calls


def test_content_is_none_for_templates_that_test_it() -> None:
    source = (
        "{% for m in messages %}{% if m.tool_calls and m.content is none %}" + CALLS + "{% else %}"
        "[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"
    )
    assert loaded_model(source).chat_capabilities.null_content
    for content in (None, ""):
        prompt = prompt_of(source, [USER, asked(content, call("a", "mkparis")), result("a", "mkrain")], [TOOL])
        assert '<get_weather>{"city": "mkparis"}' in prompt


@pytest.mark.parametrize("name", ["qwen3", "glm-4.6", "minimax-m2", "like-llama-3.1"])
def test_content_is_empty_for_other_templates(name: str) -> None:
    messages = [USER, asked(None, call("a", "mkparis")), result("a", "mkrain")]
    assert not loaded_model(template(name)).chat_capabilities.null_content
    assert "None" not in prompt_of(template(name), messages)


# --- tools


def test_the_fields_of_tools_keep_their_order() -> None:
    source = "{% for t in tools %}{{ t.function.description + '' }}{{ t.function|tojson }}{% endfor %}" + ROLES
    wanted = json.dumps({**TOOL["function"], "description": ""})
    assert json.dumps(PARAMETERS["properties"]["city"]) in prompt_of(source, [USER], [TOOL])
    assert wanted.index('"properties"') < wanted.index('"type"')
    prompt = prompt_of(source, [USER], [TOOL])
    assert prompt.index('"parameters": {"properties"') < prompt.index('"type": "object"')


def test_templates_that_know_simple_types_only_get_simple_types() -> None:
    source = (
        "{% set names = {'string': 'str', 'integer': 'int', 'array': 'list', 'object': 'dict'} %}"
        "{% for t in tools %}{{ t.function.name }}{% for name, p in t.function.parameters.properties|items %}"
        "({{ name + ': ' + names[p.type] }}){% endfor %}{% endfor %}" + ROLES
    )
    properties = {
        "city": {"type": ["null", "string"]},
        "days": {"anyOf": [{"type": "null"}, {"type": "integer"}]},
        "unit": {"enum": ["C", "F"]},
        "which": {"const": ["a"]},
        "place": {"oneOf": [{"$ref": "#/$defs/p"}, {"allOf": [{"type": "object"}]}]},
        "any": {},
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": properties}}}
    prompt = prompt_of(source, [USER], [tool])
    assert "f(city: str)(days: int)(unit: str)(which: list)(place: dict)(any: str)" in prompt


@pytest.mark.parametrize("plugin", [DeepSeekV3(), DeepSeekV31(), CommandR(), Hermes()])
def test_calls_written_as_text_are_read_by_the_same_format(plugin: Any) -> None:
    messages = [{"role": "assistant", "content": "", "tool_calls": [call("a", "Paris")]}]
    (written,) = plugin.inline(messages, [])
    parser = plugin.create(ToolContext(tools=[TOOL]))
    deltas = [parser.feed(written["content"]), parser.finish()]
    assert "".join(delta.text for delta in deltas) == ""
    assert "".join(piece.arguments for delta in deltas for piece in delta.calls) == '{"city": "Paris"}'

    (described,) = plugin.inline([], [TOOL])
    example = described["content"].rpartition("in this form:\n")[2]
    assert example.startswith(written["content"][:8])
