"""Conversations of the Messages API as chats, and the places of their errors."""

from __future__ import annotations

from typing import Any

import pytest

from llamafw import RequestError
from llamafw_plugins.anthropic.chat_body import chat_body, errors_about
from llamafw_plugins.anthropic.conversation import Conversation, read_conversation

USER = {"role": "user", "content": "Hi"}
CALL = {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "é", "n": 1}}
TEXT_DOCUMENT = {"type": "text", "media_type": "text/plain", "data": "Ely is a city."}


def text(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **more}


def read(*messages: Any, **fields: Any) -> list[dict[str, Any]]:
    return read_conversation({"messages": list(messages), **fields}).messages


def converted(**fields: Any) -> dict[str, Any]:
    body = {"messages": [USER], "max_tokens": 5, **fields}
    return chat_body(body, read_conversation(body))


def refused(*messages: Any, **fields: Any) -> str | None:
    with pytest.raises(RequestError) as caught:
        read(*messages, **fields)
    return caught.value.param


def test_system_prompts_are_the_first_message() -> None:
    cached = text("Be kind.", cache_control={"type": "ephemeral", "ttl": "1h"})
    assert read(USER, system="Be brief.") == [{"role": "system", "content": "Be brief."}, USER]
    assert read(USER, system=[cached]) == [{"role": "system", "content": "Be kind."}, USER]
    both = read(USER, system=[text("Be brief."), cached])[0]
    assert both["content"] == [text("Be brief."), text("Be kind.")]
    assert read(USER, system=[]) == read(USER, system="") == [USER]


def test_header_of_a_client_is_not_part_of_the_system_prompt() -> None:
    header = text("x-anthropic-billing-header: cc_version=2.1; cch=4f1c3;")
    assert read(USER, system=[header, text("Be brief.")])[0] == {"role": "system", "content": "Be brief."}
    assert read(USER, system=[header]) == [USER]
    assert read({"role": "user", "content": [header]})[0]["content"] == header["text"]


def test_system_messages_may_be_anywhere() -> None:
    later = {"role": "system", "content": "New rule."}
    assert [message["role"] for message in read(USER, later, USER)] == ["user", "system", "user"]


def test_consecutive_messages_of_a_role_become_one() -> None:
    assert read(USER, USER)[0] == {"role": "user", "content": [text("Hi"), text("Hi")]}
    assistant = {"role": "assistant", "content": "So"}
    assert len(read(USER, assistant, {"role": "assistant", "content": [text("far")]})) == 2


def test_calls_and_results_have_messages_of_their_own() -> None:
    results = [
        {"type": "tool_result", "tool_use_id": "t1", "content": [text("one"), text("two")]},
        {"type": "tool_result", "tool_use_id": "t2", "content": "gone", "is_error": True},
        {"type": "tool_result", "tool_use_id": "t3"},
        text("And now?"),
    ]
    _, call, first, second, third, last = read(
        USER, {"role": "assistant", "content": [text("Wait."), CALL]}, {"role": "user", "content": results}
    )
    assert call["content"] == "Wait."
    assert call["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"at":"é","n":1}'}
    assert first == {"role": "tool", "tool_call_id": "t1", "name": "look", "content": "one\ntwo"}
    assert second == {"role": "tool", "tool_call_id": "t2", "content": "Error: gone"}
    assert third["content"] == ""
    assert last == {"role": "user", "content": "And now?"}


def test_failures_are_marked_once() -> None:
    block = {"type": "tool_result", "tool_use_id": "t1", "content": "ERROR: no file", "is_error": True}
    assert read({"role": "user", "content": [block]})[0]["content"] == "ERROR: no file"


def test_thinking_becomes_reasoning_content() -> None:
    blocks = [
        {"type": "thinking", "thinking": "First", "signature": "abc"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "thinking", "thinking": "", "signature": "text.U2Vjb25k"},
        text("Done"),
    ]
    assert read(USER, {"role": "assistant", "content": blocks})[1] == {
        "role": "assistant",
        "content": "Done",
        "reasoning_content": "First\nSecond",
    }


def test_an_empty_answer_is_kept() -> None:
    assert read(USER, {"role": "assistant", "content": []}, USER)[1] == {"role": "assistant", "content": ""}


@pytest.mark.parametrize(
    ("block", "param"),
    [
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}, ""),
        ({"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}, ""),
        ({"type": "document", "source": {"type": "text"}}, ".source.data"),
        ({"type": "document", "source": {"type": "content", "content": [{"type": "image"}]}}, ".source.content.0"),
        ({"type": "document"}, ""),
        ({"type": "search_result", "source": "a", "title": "b"}, ".content"),
        ({"type": "search_result", "source": {"type": "text"}, "content": []}, ".source"),
        ({"type": "tool_reference", "tool_name": "look"}, ".type"),
        ({"type": "server_tool_use", "id": "a", "name": "web_search", "input": {}}, ".type"),
        (CALL, ".type"),
        ({"type": "thinking", "thinking": "", "signature": ""}, ".type"),
        ({"type": "text"}, ".text"),
        ({"type": "tool_result"}, ".tool_use_id"),
        ({"type": "tool_result", "tool_use_id": "a", "content": [text("b"), {"type": "image"}]}, ".content.1"),
    ],
)
def test_blocks_that_a_user_cannot_send_are_refused(block: Any, param: str) -> None:
    assert refused(USER, {"role": "user", "content": [text("a"), block]}) == f"messages.1.content.1{param}"


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"type": "document", "source": TEXT_DOCUMENT}, "Ely is a city."),
        ({"type": "document", "title": "Ely", "context": "2026", "source": TEXT_DOCUMENT}, "Ely\n2026\nEly is a city."),
        ({"type": "document", "title": None, "source": {"type": "content", "content": "a"}}, "a"),
        ({"type": "document", "source": {"type": "content", "content": [text("a"), text("b")]}}, "a\nb"),
        ({"type": "search_result", "source": "https://a", "title": "b", "content": [text("c")]}, "b\nhttps://a\nc"),
    ],
)
def test_documents_that_are_text_are_read(block: Any, expected: str) -> None:
    assert read({"role": "user", "content": [block]})[0]["content"] == expected
    result = {"type": "tool_result", "tool_use_id": "a", "content": [block]}
    assert read({"role": "user", "content": [result]})[0]["content"] == expected


def test_tools_that_a_search_has_found_are_named() -> None:
    found = {"type": "tool_reference", "tool_name": "look"}
    result = {"type": "tool_result", "tool_use_id": "a", "content": [found, found]}
    assert read({"role": "user", "content": [result]})[0]["content"] == "look\nlook"


@pytest.mark.parametrize("name", ["id", "name", "input"])
def test_calls_need_all_members(name: str) -> None:
    block = {key: value for key, value in CALL.items() if key != name}
    assert refused(USER, {"role": "assistant", "content": [block]}) == f"messages.1.content.0.{name}"


def test_results_are_not_part_of_answers() -> None:
    block = {"type": "tool_result", "tool_use_id": "t1"}
    assert refused(USER, {"role": "assistant", "content": [block]}) == "messages.1.content.0.type"
    assert refused(USER, system=[block]) == "system.0.type"


def test_tools_are_functions() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"name": "f", "description": "d", "input_schema": schema, "cache_control": {"type": "ephemeral"}}
    (converted_tool,) = converted(tools=[tool])["tools"]
    assert converted_tool == {"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}}
    with pytest.raises(RequestError, match="web_search_20250305.* not supported"):
        converted(tools=[{"type": "web_search_20250305", "name": "web_search"}])
    with pytest.raises(RequestError, match="no input_schema"):
        converted(tools=[{"name": "f"}])


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, ("auto", True)),
        ({"type": "any", "disable_parallel_tool_use": True}, ("required", False)),
        ({"type": "none"}, ("none", True)),
        ({"type": "tool", "name": "f"}, ({"type": "function", "function": {"name": "f"}}, True)),
    ],
)
def test_tool_choices_are_converted(choice: Any, expected: Any) -> None:
    chat = converted(tool_choice=choice)
    assert (chat["tool_choice"], chat["parallel_tool_calls"]) == expected


def test_tool_choice_of_a_tool_needs_its_name() -> None:
    with pytest.raises(RequestError, match="needs a name"):
        converted(tool_choice={"type": "tool"})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}),
        ({"thinking": {"type": "adaptive"}}, {}),
        ({"thinking": {"type": "between_tools"}}, {}),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 2048}},
            {"enable_thinking": True, "reasoning_budget_tokens": 2048},
        ),
        ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"output_config": {"effort": "max"}}, {"reasoning_effort": "high"}),
    ],
)
def test_thinking_and_effort_are_converted(fields: Any, expected: Any) -> None:
    chat = converted(**fields)
    names = ("enable_thinking", "reasoning_budget_tokens", "reasoning_effort")
    assert {name: chat[name] for name in names if name in chat} == expected
    assert "thinking" not in chat


def test_enabled_thinking_needs_a_budget() -> None:
    with pytest.raises(RequestError, match="budget_tokens"):
        converted(thinking={"type": "enabled"})


@pytest.mark.parametrize("name", ["output_config", "output_format"])
def test_formats_are_response_formats(name: str) -> None:
    format = {"type": "json_schema", "schema": {"type": "object"}}
    chat = converted(**{name: format if name == "output_format" else {"format": format}})
    assert chat["response_format"] == {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
    with pytest.raises(RequestError, match="not both"):
        converted(output_format=format, output_config={"format": format})


def test_stop_sequences_and_native_stop_strings_add_up() -> None:
    assert converted(stop_sequences=["a"], stop="b")["stop"] == ["a", "b"]
    assert converted(stop_sequences=["a"])["stop"] == ["a"]
    assert "stop" not in converted()


def test_native_fields_stay() -> None:
    chat = converted(seed=3, temperature=0.5, metadata={"user_id": "u"}, cache_control={"type": "ephemeral"})
    assert (chat["seed"], chat["temperature"], chat["max_tokens"]) == (3, 0.5, 5)
    assert not {"metadata", "cache_control", "system"} & set(chat)


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        ("messages.0.content", "system"),
        ("messages.1.content.1", "messages.0.content.1"),
        ("messages.1.content.0.text", "messages.0.content.0.text"),
        ("messages.2.content", "messages.1.content.0.content"),
        ("messages.9", "messages.9"),
        ("response_format.json_schema.schema", "output_config.format.schema"),
        ("tools.2.function.parameters", "tools.2.input_schema"),
        ("tools.2.function.name", "tools.2.name"),
        ("tool_choice.function.name", "tool_choice.name"),
        ("stop", "stop_sequences"),
        ("temperature", "temperature"),
    ],
)
def test_errors_name_the_fields_of_the_request(param: str, expected: str) -> None:
    messages = [
        {"role": "user", "content": [text("a"), text("b")]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "c"}]},
    ]
    conversation: Conversation = read_conversation({"messages": messages, "system": "s"})
    with pytest.raises(RequestError) as caught, errors_about(conversation):
        raise RequestError("no", param=param)
    assert caught.value.param == expected
