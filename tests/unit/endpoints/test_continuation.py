"""Chats that continue the last message (assistant prefill)."""

from __future__ import annotations

from typing import Any

import pytest

from llamafw import RequestError, Settings
from llamafw_plugins.endpoints.special_text import without_markers
from llamafw_plugins.endpoints.template import render
from support.chats import NAMES, loaded_model, template
from unit.endpoints.conftest import Open, Post

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/v1/chat/completions"
USER = {"role": "user", "content": "hi"}
PREFILL = [USER, {"role": "assistant", "content": "ab"}]


async def test_last_answer_is_continued(post: Post) -> None:
    assert await post("/apply-template", messages=PREFILL) == {"prompt": "u:hi;a:ab"}
    response = await post(PATH, messages=PREFILL, max_tokens=3, temperature=0)
    assert response["choices"][0]["message"]["content"] == "cde"


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({"continue_final_message": True}, "u:hi;a:ab"),
        ({"continue_final_message": "content"}, "u:hi;a:ab"),
        ({"continue_final_message": None}, "u:hi;a:ab"),
        ({"continue_final_message": True, "add_generation_prompt": False}, "u:hi;a:ab"),
        ({"continue_final_message": False}, "u:hi;a:ab;a:"),
        ({"add_generation_prompt": True}, "u:hi;a:ab;a:"),
        ({"add_generation_prompt": False}, "u:hi;a:ab;"),
    ],
)
async def test_requests_say_whether_to_continue(post: Post, fields: dict[str, Any], prompt: str) -> None:
    assert (await post("/apply-template", messages=PREFILL, **fields))["prompt"] == prompt


async def test_flag_switches_prefill_off(opened: Open) -> None:
    async with opened(prefill_assistant=False) as client:
        prompts = [
            (await client.post("/apply-template", json={"messages": PREFILL, **fields})).json()["prompt"]
            for fields in ({}, {"continue_final_message": True})
        ]
    assert prompts == ["u:hi;a:ab;a:", "u:hi;a:ab"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("messages", "content"), [(PREFILL, "abcd"), ([USER], "ab")])
async def test_echo_begins_with_the_continued_message(
    post: Post, events: Post, messages: Any, content: str, stream: bool
) -> None:
    fields = {"messages": messages, "echo": True, "max_tokens": 2, "temperature": 0}
    if stream:
        deltas = [event["choices"][0]["delta"] for event in (await events(PATH, **fields))[:-1]]
        assert "".join(delta.get("content") or "" for delta in deltas) == content
    else:
        assert (await post(PATH, **fields))["choices"][0]["message"]["content"] == content


CALLS = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"messages": PREFILL, "continue_final_message": True, "add_generation_prompt": True}, "cannot both be true"),
        ({"messages": [USER], "continue_final_message": True}, "needs an assistant's message"),
        ({"messages": PREFILL, "continue_final_message": "reasoning_content"}, "no tags for reasoning"),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": CALLS}], "continue_final_message": True},
            "tool calls cannot be continued",
        ),
        ({"messages": PREFILL, "continue_final_message": "tool_calls"}, ""),
        ({"messages": PREFILL, "continue_final_message": 1}, ""),
    ],
)
async def test_continuing_other_messages_is_400(refused: Post, fields: Any, reason: str) -> None:
    status, param, message = await refused(PATH, **fields)
    assert (status, param) == (400, "continue_final_message")
    assert reason in message


async def test_calls_at_the_end_are_not_continued(post: Post) -> None:
    prompt = (await post("/apply-template", messages=[USER, {"role": "assistant", "tool_calls": CALLS}]))["prompt"]
    assert prompt.endswith(";a:")


# --- with the templates of models


def prompt_of(name: str, messages: list[dict[str, Any]], **fields: Any) -> str:
    return without_markers(
        render({"messages": messages, **fields}, loaded_model(template(name)), Settings(), None).text
    )


@pytest.mark.parametrize("text", ["Sure, ", "\n\n", "{", "é€ "])
@pytest.mark.parametrize("name", NAMES)
async def test_prompts_end_with_the_continued_text(name: str, text: str) -> None:
    prompt = prompt_of(name, [USER, {"role": "assistant", "content": text}])
    assert prompt.endswith(text)
    assert prompt.index("hi") < len(prompt) - len(text)


@pytest.mark.parametrize(
    ("name", "message", "end"),
    [
        ("qwen3", {"content": "So"}, "<|im_start|>assistant\n<think>\n\n</think>\n\nSo"),
        ("qwen3", {"content": "So", "reasoning_content": "Hm"}, "<think>\nHm\n</think>\n\nSo"),
        ("qwen3", {"content": "", "reasoning_content": "Hm "}, "<|im_start|>assistant\n<think>\nHm "),
        ("qwen3.5", {"content": "", "reasoning_content": "Hm "}, "<think>\nHm "),
        ("qwq", {"content": "", "reasoning_content": "Hm "}, "<think>\nHm "),
        ("gpt-oss", {"content": "So"}, "<|start|>assistant<|channel|>final<|message|>So"),
        ("gpt-oss", {"content": "", "reasoning_content": "Hm"}, "<|channel|>analysis<|message|>Hm"),
        ("deepseek-v3.1", {"content": "So"}, "So"),
        ("ministral-3-reasoning", {"content": "", "reasoning_content": "Hm"}, "[THINK]Hm"),
        ("like-llama-3.1", {"content": "So "}, "<|start_header_id|>assistant<|end_header_id|>\n\nSo "),
        ("like-gemma-2", {"content": "So "}, "<start_of_turn>model\nSo "),
    ],
)
async def test_continued_messages_are_written_in_the_form_of_the_template(
    name: str, message: dict[str, Any], end: str
) -> None:
    assert prompt_of(name, [USER, {"role": "assistant", **message}]).endswith(end)


@pytest.mark.parametrize(
    ("message", "opened"),
    [
        ({"content": "So"}, None),
        ({"content": "", "reasoning_content": "Hm"}, True),
        ({"content": "<think>\nHm"}, True),
        ({"content": "<think>\nHm</think>So"}, None),
    ],
)
async def test_answer_begins_where_the_message_ends(message: dict[str, Any], opened: bool | None) -> None:
    body = {"messages": [USER, {"role": "assistant", **message}]}
    reasoning = render(body, loaded_model(template("qwen3")), Settings(), None).reasoning
    assert (None if reasoning is None else reasoning.opened) is opened


async def test_template_that_refuses_an_answer_at_the_end_is_continued_by_its_start() -> None:
    source = (
        "{% if messages[-1].role == 'assistant' %}{{ raise_exception('no') }}{% endif %}"
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{{ '<assistant>' if add_generation_prompt }}"
    )
    body = {"messages": PREFILL}
    assert render(body, loaded_model(source), Settings(), None).text == "<user>hi<assistant>ab"
    with pytest.raises(RequestError):
        render({**body, "add_generation_prompt": False}, loaded_model(source), Settings(), None)
