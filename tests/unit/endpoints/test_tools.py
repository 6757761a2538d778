"""Tools in chat completions, on models that answer with the text that the test sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from llamafw import Floats
from support.toy_model import EOS
from unit.endpoints.conftest import Open, read_events

PATH = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": None,
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Ely"}}\n</tool_call>'
TOOL_TEMPLATE = (
    "{% for tool in tools or [] %}[{{ tool | tojson }}]{% endfor %}"
    "{% for message in messages %}{{ message.role[0] }}:{{ message.content }}"
    "{% for call in message.tool_calls or [] %}{{ call.function.name }}({{ call.function.arguments | tojson }})"
    "{% endfor %};{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)
pytestmark = pytest.mark.inventory("E-108", "D-23", "T-02")


def answering(text: str) -> Callable[[Sequence[int]], Floats]:
    """Return the scores of a model whose greedy answer is ``text``."""
    answer = text.encode()

    def scores(prefix: Sequence[int]) -> Floats:
        generated = bytes(token for token in prefix if token < 256).rpartition(b";a:")[2]
        row = np.zeros(264, np.float32)
        row[answer[len(generated)] if len(generated) < len(answer) else EOS] = 20
        return row

    return scores


async def ask(opened: Open, text: str, *, template: str | None = None, **fields: Any) -> Any:
    """Return the response, or the events of the stream, of a model that answers ``text``."""
    options = {} if template is None else {"template": template}
    async with opened(scores=answering(text), n_ctx=2048, **options) as client:
        response = await client.post(PATH, json={"messages": HI, "temperature": 0, "tools": [WEATHER, CLOCK], **fields})
    return read_events(response.text) if fields.get("stream") else response.json()


@pytest.mark.parametrize("template", [None, TOOL_TEMPLATE])
async def test_response_has_a_tool_call(opened: Open, template: str | None) -> None:
    response = await ask(opened, CALL, template=template)
    (choice,) = ChatCompletion.model_validate(response).choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert choice.message.tool_calls
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Ely"})
    assert call.id


async def test_response_has_text_and_several_calls(opened: Open) -> None:
    choice = (await ask(opened, f"Let me see.\n{CALL}\n{CALL}"))["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Let me see.\n", "tool_calls")
    ids = [call["id"] for call in choice["message"]["tool_calls"]]
    assert len(ids) == len(set(ids)) == 2


async def test_stream_has_tool_calls(opened: Open) -> None:
    *events, done = await ask(opened, f"So: {CALL}{CALL}", stream=True)
    assert done == "[DONE]"
    deltas = [ChatCompletionChunk.model_validate(event).choices[0].delta for event in events]
    assert "".join(delta.content or "" for delta in deltas) == "So: "
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    assert [(call.index, call.function.name) for call in calls if call.function] == [(0, "weather"), (1, "weather")]
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("text", ["plain", "a <b> {c}", "<tool_call>no json</tool_call>", "<tool_call>{", "{} [1]"])
async def test_invalid_calls_stay_text(opened: Open, text: str) -> None:
    choice = (await ask(opened, text))["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": text}
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("strict", [True, False, None])
async def test_only_required_calls_follow_the_schema(opened: Open, strict: bool | None) -> None:
    tool: Any = deepcopy(WEATHER)
    tool["function"]["strict"] = strict
    invalid = CALL.replace('"Ely"', "7")

    free = (await ask(opened, invalid, tools=[tool]))["choices"][0]["message"]
    assert [call["function"]["arguments"] for call in free["tool_calls"]] == ['{"city": 7}']

    required = (await ask(opened, invalid, tools=[tool], tool_choice="required"))["choices"][0]["message"]
    start = invalid.partition("7")[0]
    assert required["content"].startswith(start)
    assert required["content"].removeprefix(start).lstrip().startswith('"')  # a string, which this model does not end


async def test_parallel_tool_calls_false_returns_one_call(opened: Open) -> None:
    message = (await ask(opened, CALL + CALL, parallel_tool_calls=False))["choices"][0]["message"]
    assert len(message["tool_calls"]) == 1


async def test_tool_choice_none_parses_no_calls(opened: Open) -> None:
    choice = (await ask(opened, CALL, tool_choice="none"))["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (CALL, "stop")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [{"type": "retrieval", "function": {"name": "f"}}]}, "tools.0.type"),
        ({"tools": [CLOCK, WEATHER, CLOCK]}, "tools.2.function.name"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "clok"}}}, "tool_choice.function.name"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]}, "messages.0.tool_calls.0.function"),
    ],
)
async def test_invalid_requests_are_400(opened: Open, fields: dict[str, Any], param: str) -> None:
    error = (await ask(opened, "x", **fields))["error"]
    assert (error["code"], error.get("param")) == (400, param)


# --- the prompt


CONVERSATION = [
    *HI,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ely"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "1", "content": "rain"},
]


async def render(opened: Open, template: str, **fields: Any) -> str:
    async with opened(template=template) as client:
        response = await client.post("/apply-template", json=fields)
        return str(response.json()["prompt"])


async def test_template_with_tools_renders_them(opened: Open) -> None:
    text = await render(opened, template=TOOL_TEMPLATE, messages=CONVERSATION, tools=[WEATHER, CLOCK])
    described = f"[{json.dumps(WEATHER)}][{json.dumps(CLOCK)}]"
    assert text == described + 'u:hi;a:weather({"city": "Ely"});t:rain;a:'
    assert await render(opened, template=TOOL_TEMPLATE, messages=HI, tools=[WEATHER], tool_choice="none") == "u:hi;a:"


async def test_template_without_tools_gets_them_as_text(opened: Open) -> None:
    plain = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    text = await render(opened, template=plain, messages=CONVERSATION, tools=[WEATHER])
    system, _, rest = text.partition("user: hi\n")
    assert system.startswith("system: ")
    assert '"name": "weather"' in system
    assert "<tool_call>" in system
    assert rest == f"assistant: {CALL}\nuser: <tool_response>\nrain\n</tool_response>\n"
    both = await render(
        opened, template=plain, messages=[{"role": "system", "content": "Be kind."}, *HI], tools=[CLOCK]
    )
    assert both.startswith("system: Be kind.\n\n")
    assert both.count("system: ") == 1
