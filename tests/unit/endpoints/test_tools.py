"""Tools in chat completions, on models that answer with the text that the test sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
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
    if "tool_parser" in fields:
        options["tool_parser"] = fields.pop("tool_parser")
    async with opened(scores=answering(text), n_ctx=2048, **options) as client:
        body = {"messages": HI, "temperature": 0, "tools": [WEATHER, CLOCK], "max_tokens": 200, **fields}
        response = await client.post(PATH, json=body)
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
    *events, done = await ask(opened, f"So: {CALL}\n{CALL}", stream=True)
    assert done == "[DONE]"
    deltas = [ChatCompletionChunk.model_validate(event).choices[0].delta for event in events]
    assert "".join(delta.content or "" for delta in deltas) == "So: "
    pieces = [call for delta in deltas for call in delta.tool_calls or []]
    named = [piece for piece in pieces if piece.function and piece.function.name]
    assert [(piece.index, piece.function.name, piece.type) for piece in named if piece.function] == [
        (0, "weather", "function"),
        (1, "weather", "function"),
    ]
    assert len({piece.id for piece in named}) == 2
    assert len(pieces) > 8  # the arguments arrive as they are written
    for index in (0, 1):
        arguments = [piece.function.arguments or "" for piece in pieces if piece.index == index and piece.function]
        assert json.loads("".join(arguments)) == {"city": "Ely"}
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("text", ["plain", "a <b> {c}", "<tool_cal>no json</tool_call>", "{} [1]", "<tool_"])
async def test_text_stays_text(opened: Open, text: str) -> None:
    choice = (await ask(opened, text))["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": text}
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("choice", ["auto", "required"])
async def test_calls_follow_the_schema(opened: Open, choice: str) -> None:
    """The model would write a number; the grammar makes it begin a text."""
    fields: Any = {"tool_choice": choice, "max_tokens": 62, "stream": True, "logit_bias": {str(ord('"')): 15}}
    events = await ask(opened, CALL.replace('"Ely"', "7"), **fields)
    deltas = [event["choices"][0]["delta"] for event in events[:-1]]
    pieces = [piece["function"]["arguments"] for delta in deltas for piece in delta.get("tool_calls", ())]
    arguments = "".join(pieces)
    assert arguments.startswith('{"city":')
    assert arguments.removeprefix('{"city":').lstrip().startswith('"')


def literal(text: str) -> str:
    """Return a grammar that allows one text."""
    return f"root ::= {json.dumps(text)}"


@pytest.mark.parametrize(
    "arguments", ['"{"', '{"x": NaN}', '{"x": 1e400}', "[1]", '{"x": 1', '{"city": "Ely"}}'], ids=range(6)
)
async def test_calls_with_invalid_arguments_are_text(opened: Open, arguments: str) -> None:
    """With a grammar of the client, anything may be written; what comes out as a call is JSON and can be sent back."""
    text = f'<tool_call>{{"name": "weather", "arguments": {arguments}}}</tool_call>'
    message = (await ask(opened, text, grammar=literal(text)))["choices"][0]["message"]
    if "tool_calls" in message:
        assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"city": "Ely"}
    else:
        assert message["content"] == text
    back = [*HI, message, {"role": "tool", "tool_call_id": "x", "content": "rain"}]
    assert "choices" in await ask(opened, "ok", messages=back if "tool_calls" in message else [*HI, message, *HI])


async def test_marks_in_strings_do_not_end_a_call(opened: Open) -> None:
    parameters = {"type": "object", "properties": {"x": {"const": "</tool_call>"}}, "required": ["x"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    text = CALL.replace("weather", "f").replace('"city": "Ely"', '"x": "</tool_call>"')
    choice = (await ask(opened, text, tools=[tool], tool_choice="required"))["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"x": "</tool_call>"}
    assert choice["message"]["content"] is None


async def test_call_that_is_cut_is_not_content(opened: Open) -> None:
    body = {"messages": HI, "temperature": 0, "tools": [WEATHER], "tool_choice": "required"}
    whole_at = None
    async with opened(scores=answering(CALL), n_ctx=2048) as client:
        for n in range(1, len(CALL) + 2):
            choice = (await client.post(PATH, json={**body, "max_tokens": n})).json()["choices"][0]
            assert not choice["message"]["content"]
            assert choice["finish_reason"] == ("length" if n <= len(CALL) else "tool_calls"), n
            if "tool_calls" in choice["message"]:
                whole_at = whole_at or n
                (call,) = choice["message"]["tool_calls"]
                assert json.loads(call["function"]["arguments"]) == {"city": "Ely"}

        for n in range(1, len(CALL), 7):
            events = read_events((await client.post(PATH, json={**body, "max_tokens": n, "stream": True})).text)
            choices = [event["choices"][0] for event in events[:-1]]
            assert not "".join(choice["delta"].get("content") or "" for choice in choices)
            assert choices[-1]["finish_reason"] == "length"
    assert whole_at == CALL.index("}}") + 1  # where the arguments end


@pytest.mark.parametrize(
    ("tool_parser", "call"),
    [
        ("hermes", CALL),
        ("llama3", '<|python_tag|>{"name": "weather", "parameters": {"city": "Ely"}}'),
        ("mistral", '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Ely"}}]'),
        (
            "qwen3-coder",
            "<tool_call>\n<function=weather>\n<parameter=city>\nEly\n</parameter>\n</function>\n</tool_call>",
        ),
    ],
)
async def test_tools_with_a_response_format_mean_calls_or_json(opened: Open, tool_parser: str, call: str) -> None:
    person = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    }
    fields: Any = {
        "tool_parser": tool_parser,
        "response_format": {"type": "json_schema", "json_schema": {"schema": person}},
    }
    answer = '{"name":"weather","age":36}'
    message = (await ask(opened, answer, **fields))["choices"][0]["message"]
    assert message == {"role": "assistant", "content": answer}

    message = (await ask(opened, call, **fields))["choices"][0]["message"]
    assert [json.loads(call["function"]["arguments"]) for call in message["tool_calls"]] == [{"city": "Ely"}]

    cut = (await ask(opened, call[:1], max_tokens=1, **fields))["choices"][0]
    assert (cut["message"]["content"], cut["finish_reason"]) == ("", "length")


async def test_bare_json_is_a_call_only_of_an_offered_tool(opened: Open) -> None:
    other = '{"name": "Ada", "age": 36}'
    assert (await ask(opened, other, tool_parser="llama3"))["choices"][0]["message"]["content"] == other
    call = '{"name": "weather", "parameters": {"city": "Ely"}}'
    assert (await ask(opened, call, tool_parser="llama3"))["choices"][0]["message"]["tool_calls"]


async def test_required_call_ignores_the_response_format(opened: Open) -> None:
    message = (await ask(opened, CALL, tool_choice="required", response_format={"type": "json_object"}))["choices"][0]
    assert message["finish_reason"] == "tool_calls"


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


async def test_allowed_tools_limit_the_calls_but_not_the_prompt(opened: Open) -> None:
    text = await render(
        opened, template=TOOL_TEMPLATE, messages=HI, tools=[WEATHER, CLOCK], tool_choice=allowed("auto", "clock")
    )
    assert text == f"[{json.dumps(WEATHER)}][{json.dumps(CLOCK)}]u:hi;a:"

    free = (await ask(opened, "Hello", tool_choice=allowed("auto", "clock")))["choices"][0]
    assert free["message"]["content"] == "Hello"
    other = CALL.replace("weather", "watch")  # as long as "clock", so that the model goes on with its arguments
    for mode in ("auto", "required"):
        (call,) = (await ask(opened, other, tool_choice=allowed(mode, "clock")))["choices"][0]["message"]["tool_calls"]
        assert call["function"]["name"] == "clock"
    required = (await ask(opened, "Hello", tool_choice=allowed("required", "clock")))["choices"][0]
    assert required["finish_reason"] in ("tool_calls", "length")
    assert not required["message"]["content"]


UNENFORCEABLE = {"type": "object", "properties": {"x": {"not": {"const": 1}}}}


async def test_schema_that_cannot_be_enforced_is_refused_only_if_asked_for(opened: Open) -> None:
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": UNENFORCEABLE}}
    call = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
    message = (await ask(opened, call, tools=[tool]))["choices"][0]["message"]
    assert message["tool_calls"][0]["function"]["arguments"] == '{"x": 1}'

    param = "tools.0.function.parameters.properties.x.not"
    strict = {**tool, "function": {**tool["function"], "strict": True}}
    for offered, choice in ((tool, "required"), (strict, "auto")):
        error = (await ask(opened, call, tools=[offered], tool_choice=choice))["error"]
        assert (error["code"], error["param"]) == (400, param)


async def test_schema_that_cannot_be_enforced_is_refused_only_if_it_may_be_called(opened: Open) -> None:
    tool: Any = {"type": "function", "function": {"name": "f", "strict": True, "parameters": UNENFORCEABLE}}
    named = {"type": "function", "function": {"name": "f"}}
    for choice in (named, allowed("required", "clock", "f"), allowed("auto", "f")):
        error = (await ask(opened, CALL, tools=[CLOCK, WEATHER, tool], tool_choice=choice))["error"]
        assert (error["code"], error["param"]) == (400, "tools.2.function.parameters.properties.x.not")
    for choice in ({"type": "function", "function": {"name": "weather"}}, allowed("required", "weather")):
        answer = (await ask(opened, CALL, tools=[CLOCK, tool, WEATHER], tool_choice=choice))["choices"][0]
        assert answer["finish_reason"] == "tool_calls"


async def test_parallel_tool_calls_false_returns_one_call(opened: Open) -> None:
    message = (await ask(opened, f"{CALL}\n{CALL}", parallel_tool_calls=False))["choices"][0]["message"]
    assert len(message["tool_calls"]) == 1
    both = f"{CALL}\n{CALL}"
    message = (await ask(opened, both, parallel_tool_calls=False, grammar=literal(both)))["choices"][0]["message"]
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
        ({"tool_choice": allowed("auto", "clock", "wether")}, "tool_choice.allowed_tools.tools.1.function.name"),
        ({"tool_choice": allowed("auto")}, "tool_choice.allowed_tools.tools"),
        ({"tool_choice": allowed("always", "clock")}, "tool_choice.allowed_tools.mode"),
        ({"tool_choice": "required", "grammar": "root ::= [a-z]"}, "tool_choice"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "clock"}}}, "tool_choice.type"),
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
