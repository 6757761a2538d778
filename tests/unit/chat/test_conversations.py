"""Conversations of all kinds with the chat templates of well-known models: nothing of them may be missing."""

from __future__ import annotations

import copy
import json
import re
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest

from llamafw import RequestError, Settings
from llamafw_plugins.endpoints.special_text import without_markers
from llamafw_plugins.endpoints.template import render
from support.chats import NAMES, loaded_model, template

USER = {"role": "user", "content": "mkuser"}
ARGUMENTS = '{"city": "mkcity", "days": 3}'
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "mkdescription",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {}}},
        },
    },
    {"type": "function", "function": {"name": "bare_tool"}},
]


def call(name: str, id: str | None, arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"type": "function", "function": function} | ({} if id is None else {"id": id})


def answer(content: Any, *calls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields} | ({"tool_calls": list(calls)} if calls else {})


def result(content: Any, id: str | None = "call_1") -> dict[str, Any]:
    return {"role": "tool", "content": content} | ({} if id is None else {"tool_call_id": id})


WEATHER = call("get_weather", "call_1", ARGUMENTS)
OTHER = call("bare_tool", "call_2", {"x": "mkother"})
LATER = [answer("mkanswer"), {"role": "user", "content": "mksecond"}]

CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "system": ([{"role": "system", "content": "mksystem"}, USER], "mksystem mkuser"),
    "two_systems": (
        [{"role": "system", "content": "mksystem"}, {"role": "system", "content": "mkmore"}, USER],
        "mksystem mkmore mkuser",
    ),
    "late_system": ([USER, answer("mkanswer"), {"role": "system", "content": "mklate"}], "mkuser mkanswer mklate"),
    "system_between": (
        [USER, {"role": "system", "content": "mkbetween"}, answer("mkanswer"), {"role": "user", "content": "mksecond"}],
        "mkuser mkbetween mkanswer mksecond",
    ),
    "developer": ([{"role": "developer", "content": "mkdeveloper"}, USER], "mkdeveloper mkuser"),
    "system_and_developer": (
        [{"role": "system", "content": "mksystem"}, {"role": "developer", "content": "mkdeveloper"}, USER],
        "mksystem mkdeveloper mkuser",
    ),
    "parts": (
        [
            {"role": "user", "content": [{"type": "text", "text": "mkone"}, {"type": "text", "text": "mktwo"}]},
            answer([{"type": "text", "text": "mkanswer"}]),
            USER,
        ],
        "mkone mktwo mkanswer mkuser",
    ),
    "assistant_first": ([answer("mkgreeting"), USER], "mkgreeting mkuser"),
    "same_roles": (
        [
            USER,
            {"role": "user", "content": "mksecond"},
            answer("mkone"),
            answer("mktwo"),
            {"role": "user", "content": "x"},
        ],
        "mkuser mksecond mkone mktwo",
    ),
    "text_arguments": ([USER, answer(None, WEATHER), result("mkresult")], "mkuser get_weather mkcity mkresult"),
    "object_arguments": (
        [USER, answer("", call("get_weather", "call_1", json.loads(ARGUMENTS))), result("mkresult"), *LATER],
        "mkuser get_weather mkcity mkresult mkanswer mksecond",
    ),
    "arguments_that_are_not_json": (
        [USER, answer("", call("get_weather", "call_1", '{"mkbroken')), result("mkresult")],
        "get_weather mkbroken mkresult",
    ),
    "no_arguments": ([USER, answer("", call("get_weather", "call_1", "")), result("mkresult")], "get_weather mkresult"),
    "text_and_call": (
        [USER, answer("mktext", WEATHER), result("mkresult"), *LATER],
        "mkuser mktext mkcity mkresult mkanswer mksecond",
    ),
    "text_and_open_call": ([USER, answer("mktext", WEATHER), result("mkresult")], "mkuser mktext mkcity mkresult"),
    "two_calls": (
        [USER, answer("mktext", WEATHER, OTHER), result("mkotherresult", "call_2"), result("mkresult"), *LATER],
        "mktext mkcity mkother mkotherresult mkresult mkanswer mksecond",
    ),
    "two_calls_without_results": ([USER, answer("", WEATHER, OTHER)], "mkuser mkcity mkother"),
    "two_rounds": (
        [USER, answer("", WEATHER), result("mkone"), answer("", OTHER), result("mktwo", "call_2"), *LATER],
        "mkcity mkone mkother mktwo mkanswer mksecond",
    ),
    "user_after_result": (
        [USER, answer("", WEATHER), result("mkresult"), {"role": "user", "content": "mksecond"}],
        "mkcity mkresult mksecond",
    ),
    "system_before_a_result": (
        [{"role": "system", "content": "mksystem"}, USER, answer("", WEATHER), result("mkresult")],
        "mksystem mkuser mkcity mkresult",
    ),
    "system_before_prefill": (
        [{"role": "system", "content": "mksystem"}, USER, answer("mkanswer")],
        "mksystem mkuser mkanswer",
    ),
    "text_and_call_before_user": (
        [USER, answer("mktext", WEATHER), result("mkresult"), {"role": "user", "content": "mksecond"}],
        "mkuser mktext mkcity mkresult mksecond",
    ),
    "older_format_of_calls": (
        [
            USER,
            answer(None, function_call={"name": "get_weather", "arguments": ARGUMENTS}),
            {"role": "function", "name": "get_weather", "content": "mkresult"},
            *LATER,
        ],
        "mkuser get_weather mkcity mkresult mkanswer mksecond",
    ),
    "no_ids": (
        [USER, answer("", call("get_weather", None, ARGUMENTS)), result("mkresult", None)],
        "get_weather mkcity mkresult",
    ),
    "parts_in_result": ([USER, answer("", WEATHER), result([{"type": "text", "text": "mkresult"}])], "mkresult"),
    "empty_parts": (
        [USER, answer([], WEATHER), result([]), answer(None), {"role": "user", "content": "mkend"}],
        "mkend",
    ),
    "no_calls": ([USER, answer("mkanswer", tool_calls=[]), {"role": "user", "content": "mkend"}], "mkanswer mkend"),
    "only_reasoning": (
        [USER, answer(None, reasoning_content="x"), {"role": "user", "content": "mkend"}],
        "mkuser mkend",
    ),
    "prefill": ([USER, answer("mkprefill ")], "mkuser mkprefill"),
}


@cache
def model(name: str) -> Any:
    return loaded_model(template(name))


def prompt_of(name: str, messages: list[dict[str, Any]], tools: Any = None, **fields: Any) -> str:
    """Return the prompt that a template makes of a request."""
    body = {"messages": copy.deepcopy(messages), **fields}
    offered = SimpleNamespace(offered=tuple(copy.deepcopy(tools))) if tools else None
    return without_markers(render(body, model(name), Settings(), offered).text)  # type: ignore[arg-type]  # Tools


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("with_tools", [False, True])
@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_nothing_of_a_conversation_is_missing(name: str, kind: str, with_tools: bool) -> None:
    messages, expected = CONVERSATIONS[kind]
    prompt = prompt_of(name, messages, TOOLS if with_tools else None)

    assert [text for text in expected.split() if text not in prompt] == []
    assert not re.search(r"'city'|None", prompt)
    if with_tools:
        assert [text for text in ("get_weather", "bare_tool", "mkdescription", "city") if text not in prompt] == []
    if kind == "prefill":
        assert prompt.endswith("mkprefill ")


@pytest.mark.parametrize("name", NAMES)
def test_conversations_may_have_nothing_but_a_system_message(name: str) -> None:
    assert "mksystem" in prompt_of(name, [{"role": "system", "content": "mksystem"}])


@pytest.mark.parametrize("name", NAMES)
def test_messages_keep_their_order(name: str) -> None:
    messages = [{"role": "system", "content": "mk0"}, {"role": "user", "content": "mk1"}, answer("mk2")]
    messages += [{"role": "user", "content": "mk3"}, answer("mk4"), {"role": "user", "content": "mk5"}]
    found = re.findall(r"mk\d", prompt_of(name, messages))
    assert sorted(found) == [f"mk{i}" for i in range(6)]
    assert [text for text in found if text != "mk0"] == [f"mk{i}" for i in range(1, 6)]  # the system message may move


@pytest.mark.parametrize("name", NAMES)
def test_results_follow_their_calls(name: str) -> None:
    messages, _ = CONVERSATIONS["two_calls"]
    prompt = prompt_of(name, messages, TOOLS)
    order = [prompt.index(text) for text in ("mkuser", "mkcity", "mkresult", "mkanswer", "mksecond")]
    assert order == sorted(order)
    assert prompt.index("mkother") < prompt.index("mkotherresult")


REASONING_FIELD = [name for name in NAMES if model(name).chat_capabilities.reasoning_field]


def test_many_templates_have_a_field_for_reasoning() -> None:
    assert len(REASONING_FIELD) >= 8


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("name", REASONING_FIELD)
def test_reasoning_of_the_current_turn_is_in_the_prompt(name: str, field: str) -> None:
    messages = [USER, answer("", WEATHER, **{field: "mkreasoning"}), result("mkresult")]
    switch = model(name).chat_capabilities.thinking_switch
    prompt = prompt_of(name, messages, TOOLS, chat_template_kwargs={switch: True} if switch else None)
    assert [text for text in ("mkreasoning", "mkcity", "mkresult") if text not in prompt] == []


@pytest.mark.parametrize("name", REASONING_FIELD)
def test_reasoning_and_text_beside_a_call_are_in_the_prompt(name: str) -> None:
    messages = [USER, answer("mktext", WEATHER, reasoning_content="mkreasoning"), result("mkresult")]
    switch = model(name).chat_capabilities.thinking_switch
    prompt = prompt_of(name, messages, TOOLS, chat_template_kwargs={switch: True} if switch else None)
    assert [text for text in ("mktext", "mkreasoning", "mkcity") if text not in prompt] == []


def test_parts_with_reasoning_become_reasoning() -> None:
    parts = [{"type": "thinking", "thinking": "mkthought"}, {"type": "text", "text": "mktext"}]
    prompt = prompt_of("qwen3", [USER, answer(parts, WEATHER), result("mkresult")], TOOLS)
    assert "<think>\nmkthought\n</think>\n\nmktext" in prompt


def test_reasoning_without_a_field_is_written_into_the_content() -> None:
    source = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{{ '<think>' if add_generation_prompt }}"
    loaded = loaded_model(source)
    old, new = answer("mkold", reasoning_content="mkgone"), answer("mknew", WEATHER, reasoning_content="mkkept")
    body = {"messages": [USER, old, USER, new, result("mkresult")]}
    prompt = render(body, loaded, Settings(), None).text
    assert "<think>\nmkkept\n</think>\n\nmknew" in prompt
    assert "mkgone" not in prompt


# --- ids and arguments


@pytest.mark.parametrize("id", ["call_0123456789abcdef01234567", "x", "abcdefghi"])
def test_ids_for_mistral_have_nine_letters(id: str) -> None:
    messages = [USER, answer("", call("get_weather", id, "{}")), result("mkresult", id)]
    ids = re.findall(r'"(?:id|call_id)": "([^"]*)"', prompt_of("mistral-nemo", messages, TOOLS))
    assert len(ids) == 2
    assert ids[0] == ids[1]
    assert re.fullmatch("[A-Za-z0-9]{9}", ids[0])
    assert id != "abcdefghi" or ids[0] == id


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ('{"a": true, "b": null}', '{"a": true, "b": null}'),
        ({"a": True, "b": None}, '{"a": true, "b": null}'),
        ('{"q": "é\\ud83d"}', '{"q": "é\ufffd"}'),
        ('{"a": NaN}', '{"a": NaN}'),
        ('{"a": 1e400}', '{"a": 1e400}'),
        ("[1]", "[1]"),
        ("{", "{"),
    ],
)
def test_arguments_are_json(arguments: Any, shown: str) -> None:
    messages = [USER, answer("", call("f", "call_1", arguments)), result("r")]
    assert f"<call>f({shown})" in prompt_of("adds-arguments", messages)


def test_tools_get_the_fields_that_a_template_reads() -> None:
    assert "Tool bare_tool: \n" in prompt_of("adds-arguments", [USER], TOOLS)
    assert "- days (any): \n" in prompt_of("adds-arguments", [USER], TOOLS)


def test_tools_stay_as_they_are_if_the_template_accepts_them() -> None:
    assert json.dumps(TOOLS[1]) in prompt_of("qwen3", [USER], TOOLS)


# --- what cannot be done


def test_unknown_roles_that_vanish_are_refused() -> None:
    with pytest.raises(RequestError, match="no role 'narrator'") as raised:
        prompt_of("mentions-developer", [USER, {"role": "narrator", "content": "mklost"}])
    assert raised.value.param == "messages.1.role"


def test_unknown_roles_that_appear_are_accepted() -> None:
    assert "<|narrator|>" not in prompt_of("qwen2.5", [USER])
    assert "mkstory" in prompt_of("like-lfm2", [USER, {"role": "narrator", "content": "mkstory"}])


@pytest.mark.parametrize("role", ["tool", "function"])
@pytest.mark.parametrize("name", NAMES)
def test_results_without_a_call_appear_or_are_refused(name: str, role: str) -> None:
    messages = [USER, {"role": role, "name": "get_weather", "content": 'mk"result"'}, *LATER]
    try:
        outcome = prompt_of(name, messages)
    except RequestError as error:
        outcome = f"refused: {error.param}"
    assert re.search(r'mk\\?"result|^refused: messages', outcome)


def test_templates_without_history_refuse_it() -> None:
    loaded = loaded_model("{{ messages[-1].content }}")
    assert render({"messages": [USER]}, loaded, Settings(), None).text == "mkuser"
    with pytest.raises(RequestError, match="drops earlier messages"):
        render({"messages": [USER, *LATER]}, loaded, Settings(), None)
