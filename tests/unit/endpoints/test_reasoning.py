"""Reasoning in chats: where it goes, how it is switched and limited, and grammars after it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from llamafw import Floats, Reasoning, ReasoningTags
from llamafw_plugins.endpoints.reasoning_reader import ReasoningReader
from support.toy_model import EOS, N_VOCAB
from unit.endpoints.conftest import Open

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]
TAGS = ReasoningTags("<think>", "</think>")
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    "{% if effort is defined %}{% endif %}{% if reasoning_effort %}({{ reasoning_effort }}){% endif %}{% endif %}"
)
OPENS = TEMPLATE.replace("{% if effort is defined %}{% endif %}", "{% if not messages[0].closed %}<think>\n{% endif %}")
THOUGHT = "<think>\nHm, hm.\n</think>\n\nYes."
BRIEF = "<think>Hm, hm.</think>"


def answering(text: str) -> Callable[[Sequence[int]], Floats]:
    """Return the scores of a model that writes ``text`` after the last ``<assistant>``, whatever comes between."""
    answer = text.encode()

    def scores(prefix: Sequence[int]) -> Floats:
        written = bytes(token for token in prefix if token < 256).rpartition(b"<assistant>")[2]
        written = written.removeprefix(b"<think></think>")
        row = np.zeros(N_VOCAB, np.float32)
        n = next(n for n in range(min(len(answer), len(written)), -1, -1) if written.endswith(answer[:n]))
        row[answer[n] if n < len(answer) else EOS] = 20
        return row

    return scores


async def ask(opened: Open, text: str, template: str = TEMPLATE, **fields: Any) -> Any:
    """Return the response to a chat, or the events of its stream, of a model that writes ``text``."""
    settings = {name: fields.pop(name) for name in list(fields) if name.startswith("flag_")}
    flags = {name.removeprefix("flag_"): value for name, value in settings.items()}
    async with opened(scores=answering(text), template=template, n_ctx=512, **flags) as client:
        body = {"messages": HI, "temperature": 0, "max_tokens": 200, **fields}
        response = await client.post(PATH, json=body)
        assert response.status_code == 200, response.text
        if not fields.get("stream"):
            ChatCompletion.model_validate(response.json())
            return response.json()
        events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
        return [json.loads(event) for event in events if event != "[DONE]"]


def message_of(response: Any) -> Any:
    return response["choices"][0]["message"]


async def test_reasoning_is_apart_from_the_answer(opened: Open) -> None:
    response = await ask(opened, THOUGHT)
    assert message_of(response) == {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm, hm."}
    assert response["usage"]["completion_tokens_details"] == {"reasoning_tokens": len("\nHm, hm.\n")}


async def test_other_apis_report_the_reasoning_and_the_number_of_its_tokens(opened: Open) -> None:
    n_reasoning, fields = len("\nHm, hm.\n"), {"temperature": 0, "model": "toy"}
    async with opened(scores=answering(THOUGHT), template=TEMPLATE, n_ctx=512) as client:
        response = (await client.post("/v1/responses", json={**fields, "input": "hi"})).json()
        message = (await client.post("/v1/messages", json={**fields, "messages": HI, "max_tokens": 200})).json()
        chat = (await client.post("/api/chat", json={"model": "toy", "messages": HI, "stream": False})).json()
        shown = (await client.post("/api/show", json={"model": "toy"})).json()

    assert [item["content"][0]["text"] for item in response["output"]] == ["Hm, hm.", "Yes."]
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": n_reasoning}
    assert (message["content"][0]["thinking"], message["content"][1]["text"]) == ("Hm, hm.", "Yes.")
    assert message["usage"]["output_tokens_details"] == {"thinking_tokens": n_reasoning}
    assert (chat["message"]["thinking"], chat["message"]["content"]) == ("Hm, hm.", "Yes.")
    assert "thinking" in shown["capabilities"]


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({"reasoning_format": "none"}, [("message", f"{BRIEF}Yes.")]),
        ({"reasoning_budget_tokens": 2}, [("reasoning", "Hm"), ("message", "Yes.")]),
        ({"thinking_budget_tokens": 0}, [("message", "Yes.")]),
        ({"enable_thinking": False}, [("message", "Yes.")]),
        ({"thinking": {"type": "disabled"}}, [("message", "Yes.")]),
        ({"reasoning": {"effort": "none"}}, [("message", "Yes.")]),
        ({"chat_template_kwargs": {"enable_thinking": False}}, [("message", "Yes.")]),
        (
            {"reasoning_budget_tokens": 2, "reasoning_budget_message": " Stop."},
            [("reasoning", "Hm Stop."), ("message", "Yes.")],
        ),
    ],
)
async def test_responses_have_the_same_fields(
    opened: Open, fields: dict[str, Any], output: list[tuple[str, str]]
) -> None:
    def after_thoughts(prefix: Sequence[int]) -> Floats:
        """Return the scores of a model that answers as soon as its thoughts end."""
        written = bytes(token for token in prefix if token < 256).rpartition(b"<assistant>")[2]
        _, tag, answer = written.rpartition(b"</think>")
        if not tag:
            return answering(f"{BRIEF}Yes.")(prefix)
        row = np.zeros(N_VOCAB, np.float32)
        row[(*b"Yes.", EOS)[len(answer)]] = 20
        return row

    async with opened(scores=after_thoughts, template=TEMPLATE, n_ctx=512) as client:
        http = await client.post("/v1/responses", json={"input": "hi", "temperature": 0, **fields})
    assert http.status_code == 200, http.text
    assert "x-llamafw-ignored-fields" not in http.headers
    assert [(item["type"], item["content"][0]["text"]) for item in http.json()["output"]] == output


async def test_reasoning_may_begin_in_the_prompt(opened: Open) -> None:
    message = message_of(await ask(opened, "Hm, hm.\n</think>\n\nYes.", OPENS))
    assert (message["reasoning_content"], message["content"]) == ("Hm, hm.", "Yes.")


@pytest.mark.parametrize("template", [TEMPLATE, OPENS])
async def test_stream_has_reasoning_before_the_answer(opened: Open, template: str) -> None:
    text = THOUGHT if template == TEMPLATE else THOUGHT.removeprefix("<think>\n")
    chunks = await ask(opened, text, template, stream=True, stream_options={"include_usage": True})
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "Hm, hm."
    assert "".join(delta.get("content") or "" for delta in deltas) == "Yes."
    kinds = [name for delta in deltas for name in ("reasoning_content", "content") if delta.get(name)]
    assert kinds == sorted(kinds, reverse=True)
    assert chunks[-1]["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


@pytest.mark.parametrize(
    ("format", "content", "reasoning"),
    [
        ("auto", "Yes.", "Hm, hm."),
        ("deepseek", "Yes.", "Hm, hm."),
        ("none", THOUGHT, None),
        ("deepseek-legacy", THOUGHT, "Hm, hm."),
    ],
)
async def test_reasoning_format_decides_where_the_reasoning_goes(
    opened: Open, format: str, content: str, reasoning: str | None
) -> None:
    settings: list[dict[str, Any]] = [{"reasoning_format": format}, {"flag_reasoning_format": format}]
    for fields in settings:
        message = message_of(await ask(opened, THOUGHT, **fields))
        assert (message["content"], message.get("reasoning_content")) == (content, reasoning)


async def test_answers_without_reasoning_stay_as_they_are(opened: Open) -> None:
    message = message_of(await ask(opened, "Use <think> and </think>."))
    assert message == {"role": "assistant", "content": "Use <think> and </think>."}


async def test_unfinished_reasoning_is_reasoning(opened: Open) -> None:
    response = await ask(opened, "<think>Hm, and so on", max_tokens=12)
    assert message_of(response) == {"role": "assistant", "content": "", "reasoning_content": "Hm, a"}
    assert response["choices"][0]["finish_reason"] == "length"


# --- switches


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({}, "<assistant>"),
        ({"enable_thinking": False}, "<assistant><think></think>"),
        ({"enable_thinking": True}, "<assistant>"),
        ({"thinking": False}, "<assistant><think></think>"),
        ({"thinking": {"type": "disabled"}}, "<assistant><think></think>"),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, "<assistant>"),
        ({"reasoning_effort": "none"}, "<assistant><think></think>"),
        ({"reasoning_effort": "low"}, "<assistant>(low)"),
        ({"reasoning_budget_tokens": 0}, "<assistant><think></think>"),
        ({"thinking_budget_tokens": 0}, "<assistant><think></think>"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "<assistant><think></think>"),
        ({"chat_template_kwargs": {"thinking": False}}, "<assistant><think></think>"),
        ({"chat_template_kwargs": {"enable_thinking": True}, "enable_thinking": False}, "<assistant>"),
    ],
)
async def test_requests_switch_thinking(opened: Open, fields: dict[str, Any], prompt: str) -> None:
    async with opened(template=TEMPLATE, n_ctx=512) as client:
        response = await client.post("/apply-template", json={"messages": HI, **fields})
    assert response.json()["prompt"] == f"<user>hi{prompt}"


@pytest.mark.parametrize(
    ("flags", "fields", "prompt"),
    [
        ({"reasoning": False}, {}, "<assistant><think></think>"),
        ({"reasoning": False}, {"enable_thinking": True}, "<assistant>"),
        ({"reasoning_budget": 0}, {}, "<assistant><think></think>"),
        ({"reasoning_budget": 0}, {"reasoning_effort": "high"}, "<assistant>(high)"),
        ({"reasoning_effort": "medium"}, {}, "<assistant>(medium)"),
        ({"chat_template_kwargs": {"reasoning_effort": "x"}}, {}, "<assistant>(x)"),
        (
            {"chat_template_kwargs": {"reasoning_effort": "x"}},
            {"chat_template_kwargs": {"reasoning_effort": "y"}},
            "<assistant>(y)",
        ),
    ],
)
async def test_flags_are_the_defaults(opened: Open, flags: dict[str, Any], fields: dict[str, Any], prompt: str) -> None:
    async with opened(template=TEMPLATE, n_ctx=512, **flags) as client:
        response = await client.post("/apply-template", json={"messages": HI, **fields})
    assert response.json()["prompt"] == f"<user>hi{prompt}"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"chat_template_kwargs": {"enable_thinking": "false"}}, "chat_template_kwargs.enable_thinking"),
        ({"reasoning_format": "xml"}, "reasoning_format"),
        ({"reasoning_budget_tokens": -2}, "reasoning_budget_tokens"),
        ({"reasoning_effort": ""}, "reasoning_effort"),
        ({"thinking": {"type": "perhaps"}}, "thinking.type"),
    ],
)
async def test_invalid_switches_are_400(opened: Open, fields: dict[str, Any], param: str) -> None:
    async with opened(template=TEMPLATE, n_ctx=512) as client:
        response = await client.post(PATH, json={"messages": HI, **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


# --- budgets


@pytest.mark.parametrize("budget", [1, 3, 6])
async def test_reasoning_ends_at_its_budget(opened: Open, budget: int) -> None:
    fields: list[dict[str, Any]] = [{"reasoning_budget_tokens": budget}, {"flag_reasoning_budget": budget}]
    for setting in fields:
        response = await ask(opened, "Hm, hm, hm, hm</think>Yes.", OPENS, **setting)
        assert message_of(response)["reasoning_content"] == "Hm, hm"[:budget].strip()
        assert response["usage"]["completion_tokens_details"]["reasoning_tokens"] == budget


async def test_budget_message_ends_the_reasoning(opened: Open) -> None:
    message = " Time is up."
    fields: list[dict[str, Any]] = [{"reasoning_budget_message": message}, {"flag_reasoning_budget_message": message}]
    for setting in fields:
        response = await ask(opened, "Hm, hm, hm</think>Yes.", OPENS, reasoning_budget_tokens=2, **setting)
        assert message_of(response)["reasoning_content"] == "Hm Time is up."


async def test_thinking_that_cannot_be_switched_off_is_ended_at_once(opened: Open) -> None:
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant><think>\n"
    response = await ask(opened, "Hm</think>Yes.", template, reasoning_effort="none")
    assert "reasoning_content" not in message_of(response)
    assert response["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


# --- grammars and tools

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("template", [TEMPLATE, OPENS])
@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
        {"json_schema": SCHEMA},
        {"grammar": 'root ::= "{\\"ok\\":true}"'},
    ],
)
async def test_grammars_apply_after_the_reasoning(opened: Open, template: str, fields: dict[str, Any]) -> None:
    text = 'Not {"json": yet.</think>\n\n{"ok":true}'
    message = message_of(await ask(opened, text if template == OPENS else f"<think>{text}", template, **fields))
    assert message["reasoning_content"] == 'Not {"json": yet.'
    assert json.loads(message["content"]) == {"ok": True}


async def test_grammars_apply_at_once_if_there_is_no_reasoning(opened: Open) -> None:
    fields: dict[str, Any] = {"json_schema": SCHEMA, "enable_thinking": False}
    assert json.loads(message_of(await ask(opened, '{"ok":true}', **fields))["content"]) == {"ok": True}


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize("format", ["auto", "none"])
async def test_calls_in_the_reasoning_are_not_calls(opened: Open, format: str) -> None:
    text = f"<think>Maybe {CALL}?</think>{CALL}"
    message = message_of(await ask(opened, text, tools=[TOOL], reasoning_format=format))
    assert len(message["tool_calls"]) == 1
    assert f"Maybe {CALL}?" in (message.get("reasoning_content") or message["content"])


async def test_required_calls_follow_the_reasoning(opened: Open) -> None:
    text = f"<think>Hm.</think>\n\n{CALL}"
    message = message_of(await ask(opened, text, tools=[TOOL], tool_choice="required"))
    assert (message["reasoning_content"], len(message["tool_calls"])) == ("Hm.", 1)


async def test_answer_can_be_sent_back(opened: Open) -> None:
    message = message_of(await ask(opened, THOUGHT))
    async with opened(template=TEMPLATE, n_ctx=512) as client:
        response = await client.post("/apply-template", json={"messages": [*HI, message, *HI]})
    assert response.json()["prompt"] == "<user>hi<assistant><think>Hm, hm.</think>Yes.<user>hi<assistant>"


# --- the reader


def read(text: str, cuts: Sequence[int], tags: ReasoningTags = TAGS, *, opened: bool = False) -> tuple[str, str, str]:
    reader = ReasoningReader(Reasoning(tags, opened))
    ends = [*sorted(cuts), len(text)]
    reasoning, rest, raw, start = "", "", "", 0
    for end in ends:
        delta = reader.read(text[start:end], last=end == len(text) and end is ends[-1])
        assert not (delta.reasoning and rest)
        reasoning, rest, raw, start = reasoning + delta.reasoning, rest + delta.rest, raw + delta.raw, end
    assert raw + rest == text
    return reasoning, rest, raw


HARMONY = ReasoningTags("<|channel|>analysis<|message|>", "<|end|>", "<|start|>assistant<|channel|>final<|message|>")


@pytest.mark.parametrize(
    ("text", "tags", "opened", "expected"),
    [
        ("<think>a b</think>c d", TAGS, False, ("a b", "c d")),
        ("\n <think>\na\n\nb\n</think>\n\nc\n", TAGS, False, ("a\n\nb", "c\n")),
        ("a</thin</think>c</think>", TAGS, True, ("a</thin", "c</think>")),
        ("<think>a", TAGS, False, ("a", "")),
        ("<think></think>", TAGS, False, ("", "")),
        ("<thinx>a", TAGS, False, ("", "<thinx>a")),
        ("<thi", TAGS, False, ("", "<thi")),
        ("", TAGS, False, ("", "")),
        (" x", TAGS, False, ("", " x")),
        ("[THINK]é[/THINK]€", ReasoningTags("[THINK]", "[/THINK]"), False, ("é", "€")),
        (f"{HARMONY.start}a{HARMONY.end}{HARMONY.answer}b", HARMONY, False, ("a", "b")),
        (f"{HARMONY.start}a{HARMONY.end}<|start|>other", HARMONY, False, ("a", "<|start|>other")),
    ],
)
async def test_tags_may_be_cut_anywhere(
    text: str, tags: ReasoningTags, opened: bool, expected: tuple[str, str]
) -> None:
    assert read(text, [], tags, opened=opened)[:2] == expected
    for cut in range(len(text)):
        assert read(text, [cut], tags, opened=opened)[:2] == expected
    assert read(text, list(range(len(text))), tags, opened=opened)[:2] == expected


# --- harmony

HARMONY_TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m.role }}<|message|>"
    "{% if m.thinking %}<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}"
    "{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|><assistant>{% endif %}"
)


async def test_harmony_has_json_in_its_final_channel(opened: Open) -> None:
    text = f'{HARMONY.start}Hm.{HARMONY.end}{HARMONY.answer}{{"ok":true}}'
    message = message_of(await ask(opened, text, HARMONY_TEMPLATE, json_schema=SCHEMA))
    assert (message["reasoning_content"], json.loads(message["content"])) == ("Hm.", {"ok": True})


async def test_harmony_may_call_tools_after_its_reasoning(opened: Open) -> None:
    text = f"{HARMONY.start}Hm.{HARMONY.end}<|start|>assistant<|channel|>commentary"
    message = message_of(await ask(opened, text, HARMONY_TEMPLATE, tools=[TOOL]))
    assert message["reasoning_content"] == "Hm."
    assert message["content"] == "<|start|>assistant<|channel|>commentary"


@pytest.mark.parametrize(
    ("text", "content", "reasoning"),
    [
        ("<|channel|>final<|message|>Yes.", "Yes.", None),
        (
            "<|channel|>commentary<|message|>Wait.<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
            "Wait.Yes.",
            None,
        ),
        (
            f"{HARMONY.start}Hm.{HARMONY.end}<|start|>assistant<|channel|>analysis<|message|>So.<|end|>{HARMONY.answer}Yes.",
            "Yes.",
            "Hm.So.",
        ),
        ("<|channel|>analysis to=browser.search code<|message|>{}<|call|>", "", "{}"),
        ("Yes.", "Yes.", None),
    ],
)
async def test_channels_are_read_without_tools(opened: Open, text: str, content: str, reasoning: str | None) -> None:
    options = {"flag_tool_parser": "harmony"}
    message = message_of(await ask(opened, text, HARMONY_TEMPLATE, **options))
    assert (message["content"], message.get("reasoning_content")) == (content, reasoning)

    deltas = [
        chunk["choices"][0]["delta"] for chunk in await ask(opened, text, HARMONY_TEMPLATE, stream=True, **options)
    ]
    assert "".join(delta.get("content") or "" for delta in deltas) == content
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == (reasoning or "")


async def test_unparsed_reasoning_of_channels_stays_in_the_text(opened: Open) -> None:
    text = "<|channel|>commentary<|message|>A.<|end|><|start|>assistant<|channel|>analysis<|message|>B.<|end|>"
    options = {"flag_tool_parser": "harmony", "reasoning_format": "none"}
    message = message_of(await ask(opened, text, HARMONY_TEMPLATE, **options))
    assert sorted(message["content"]) == sorted("A.B.")
    assert "reasoning_content" not in message
