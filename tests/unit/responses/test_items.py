"""Items of the input become messages of a chat, and nothing of them is lost."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import ResponseItem
from pydantic import TypeAdapter

from llamafw import RequestError
from llamafw_plugins.responses.input_items import (
    InputItems,
    decode_reasoning,
    encode_reasoning,
    read_input,
    reasoning_text,
)
from llamafw_plugins.responses.messages import Messages, read_messages

ITEM: TypeAdapter[Any] = TypeAdapter(ResponseItem)


def read(value: Any, stored: dict[str, Any] | None = None) -> InputItems:
    items = InputItems()
    read_input(value, (stored or {}).get, items)
    return items


def messages(value: Any, instructions: str | None = None) -> list[dict[str, Any]]:
    return read_messages(instructions, read(value)).messages


def call(id: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": id, "name": "f", "arguments": "{}", **fields}


def output(id: str, text: Any = "rain") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": id, "output": text}


def chat_call(id: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_text_is_a_message_of_the_user() -> None:
    assert messages("Hi", "Be brief.") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]


def test_messages_keep_their_roles_and_texts() -> None:
    value = [
        {"role": "developer", "content": "d"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"role": "assistant", "content": "b"},
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "c", "annotations": []}, {"type": "refusal", "refusal": "no"}],
        },
        {"role": "user", "content": [{"type": "input_text", "text": "e"}, {"type": "text", "text": "f"}]},
    ]
    assert messages(value) == [
        {"role": "developer", "content": "d"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "assistant", "content": "cno"},
        {"role": "user", "content": [{"type": "text", "text": "e"}, {"type": "text", "text": "f"}]},
    ]


def test_items_of_one_answer_are_one_message() -> None:
    value = [
        {"role": "user", "content": "u"},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"role": "assistant", "content": "a"},
        call("1"),
        call("2"),
        {"role": "assistant", "content": "b"},
        output("1"),
        output("2", [{"type": "input_text", "text": "sun"}]),
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}]},
        call("3"),
        output("3"),
    ]
    assert messages(value) == [
        {"role": "user", "content": "u"},
        {
            "role": "assistant",
            "content": "ab",
            "reasoning_content": "hm",
            "tool_calls": [chat_call("1"), chat_call("2")],
        },
        {"role": "tool", "tool_call_id": "1", "content": "rain"},
        {"role": "tool", "tool_call_id": "2", "content": "sun"},
        {"role": "assistant", "content": None, "reasoning_content": "so", "tool_calls": [chat_call("3")]},
        {"role": "tool", "tool_call_id": "3", "content": "rain"},
    ]


def test_reasoning_after_a_call_begins_a_new_message() -> None:
    value = [call("1"), {"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}]}, call("2")]
    assert [message.get("reasoning_content") for message in messages(value)] == [None, "x"]


def test_reasoning_alone_has_empty_content() -> None:
    (message,) = messages([{"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}]}])
    assert message == {"role": "assistant", "content": "", "reasoning_content": "x"}


@pytest.mark.parametrize("text", ["", "hm", "❤ <think>\0", "ab" * 100_000])
def test_encoded_reasoning_is_read_back(text: str) -> None:
    encoded = encode_reasoning(text)
    assert decode_reasoning(encoded) == text
    item = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "short"}], "encrypted_content": encoded}
    assert reasoning_text(item) == text


@pytest.mark.parametrize(
    "encoded", ["gAAAAABo", "llamafw-1.", "llamafw-1.!!", "llamafw-1.eJwDAAAAAAE", "", "llamafw-1.é"]
)
def test_encoded_reasoning_of_others_is_replaced_by_the_summary(encoded: str) -> None:
    item = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "short"}], "encrypted_content": encoded}
    assert reasoning_text(item) == "short"


def test_references_become_the_stored_items() -> None:
    stored = {"msg_1": {"id": "msg_1", "type": "message", "role": "user", "status": "completed", "content": []}}
    for reference in ({"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}):
        assert read([reference], stored).items == [stored["msg_1"]]
    with pytest.raises(RequestError, match="'msg_2' does not exist") as caught:
        read([{"type": "item_reference", "id": "msg_2"}], stored)
    assert caught.value.param == "input.0.id"


def test_items_are_completed_as_the_sdk_expects_them() -> None:
    value = [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a", "id": "msg_7"},
        call("1"),
        output("1"),
        output("1", [{"type": "input_text", "text": "x"}]),
        {"type": "reasoning", "summary": []},
    ]
    items = read(value).items
    for item in items:
        ITEM.validate_python(item)
    assert len({item["id"] for item in items}) == len(value)
    assert items[1]["id"] == "msg_7"


@pytest.mark.parametrize(
    ("value", "param", "message"),
    [
        ([output("1")], "input.0.call_id", "no function call with the call_id '1'"),
        ([call("1"), output("2")], "input.1.call_id", "no function call"),
        ([output("1"), call("1")], "input.0.call_id", "no function call"),
        ([{"role": "user", "content": []}], "input.0.content", "no content"),
        (
            [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}],
            "input.0.content.0",
            "input_image needs a multimodal model",
        ),
        (
            [call("1"), output("1", [{"type": "input_text", "text": ""}, {"type": "input_file", "file_id": "f"}])],
            "input.1.output.1",
            "input_file needs a multimodal model",
        ),
    ],
)
def test_items_that_cannot_be_read_are_refused(value: Any, param: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        messages(value)
    assert caught.value.param == param


def test_errors_about_messages_name_the_input() -> None:
    found = read_messages("i", read([{"role": "user", "content": "a"}, call("1"), output("1")]))
    assert isinstance(found, Messages)
    assert found.locate("messages.0.content") == "instructions"
    assert found.locate("messages.1.content.2") == "input.0.content.2"
    assert found.locate("messages.2.tool_calls.0.function.arguments") == "input.1"
    assert found.locate("messages.3.content") == "input.2.content"
    assert found.locate("messages.9") == "messages.9"
    assert found.locate("tools.0") == "tools.0"
