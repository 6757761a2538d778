"""The Messages API with the ``anthropic`` client and the default model, in a real server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from anthropic import Anthropic, BadRequestError
from anthropic.types import RawMessageStreamEvent
from pydantic import BaseModel, TypeAdapter

from llamafw.testing.process import ServerProcess, running_server

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
N_TOOLS = 20
GREEDY = {"temperature": 0}  # newer clients do not have this field, which newer models of Anthropic lack
ASK: Any = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: Any = {
    "name": "weather",
    "description": "Returns the weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
CACHED = {"cache_control": {"type": "ephemeral"}}
pytestmark = pytest.mark.inventory("T-04")


@pytest.fixture
def anthropic(server: ServerProcess) -> Iterator[Anthropic]:
    with Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def roomy(real_model: Path) -> Iterator[Anthropic]:
    """A client of a server with room for a long prompt."""
    with (
        running_server(real_model, "-np", "1", "-c", "4096", "--validate-responses") as server,
        Anthropic(base_url=server.url, api_key="none", max_retries=0) as client,
    ):
        yield client


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    pause = threading.Event()
    for _ in range(3000):
        if condition():
            return
        pause.wait(0.02)
    pytest.fail("the condition has not become true")


@pytest.mark.client("anthropic", "messages.create", "messages.stream", "messages.create(stream=True)")
def test_a_question_is_answered_whole_and_in_a_stream(anthropic: Anthropic) -> None:
    whole = anthropic.messages.create(model="any", max_tokens=16, extra_body=GREEDY, messages=ASK)
    text = whole.content[0].to_dict()["text"]
    assert "Paris" in str(text)
    with anthropic.messages.stream(model="any", max_tokens=16, extra_body=GREEDY, messages=ASK) as stream:
        assert "".join(stream.text_stream) == text
        assert stream.get_final_message().stop_reason == whole.stop_reason

    events = list(anthropic.messages.create(model="any", max_tokens=16, extra_body=GREEDY, messages=ASK, stream=True))
    for event in events:
        EVENT.validate_python(event.to_dict(), strict=True)
    assert [events[0].type, events[-1].type] == ["message_start", "message_stop"]


@pytest.mark.client("anthropic", "messages.count_tokens")
def test_count_is_the_size_of_the_prompt(anthropic: Anthropic) -> None:
    counted = anthropic.messages.count_tokens(model="any", messages=ASK, system="Be brief.", tools=[WEATHER])
    usage = anthropic.messages.create(
        model="any", max_tokens=1, messages=ASK, system="Be brief.", tools=[WEATHER]
    ).usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


@pytest.mark.client("anthropic", "messages.parse")
def test_answers_are_parsed_as_objects(anthropic: Anthropic) -> None:
    class City(BaseModel):
        name: str
        is_capital: bool

    answer = anthropic.messages.parse(model="any", max_tokens=60, extra_body=GREEDY, messages=ASK, output_format=City)
    assert isinstance(answer.parsed_output, City)


@pytest.mark.client("anthropic", "beta.messages.stream", "beta.messages.create", "beta.messages.count_tokens")
def test_session_of_a_coding_agent_works(roomy: Anthropic) -> None:
    """A session as of Claude Code: a long cached system prompt, many tools, and thinking that is sent back."""
    tools: Any = [{**WEATHER, "name": f"tool_{i}"} for i in range(N_TOOLS)]
    tools[-1] |= CACHED
    rules = "You are a careful agent. " * 30
    fields: Any = {
        "model": "any",
        "max_tokens": 40,
        "extra_body": GREEDY,
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=1;"},
            {"type": "text", "text": rules, **CACHED},
        ],
        "tools": tools,
        "metadata": {"user_id": "user_1_account__session_2"},
        "thinking": {"type": "adaptive"},
        "betas": ["claude-code-20250219", "interleaved-thinking-2025-05-14", "unknown-2026-01-01"],
    }
    thinking = {"type": "thinking", "thinking": "I need both.", "signature": "EqoBCkgIBBABGAIi"}
    calls = [{"type": "tool_use", "id": f"toolu_{i}", "name": f"tool_{i}", "input": {"city": "Ely"}} for i in (1, 2)]
    results: Any = [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "rain"}]},
        {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no such city", "is_error": True, **CACHED},
        {"type": "text", "text": "<system-reminder>Be brief.</system-reminder>"},
    ]
    messages: Any = [
        {"role": "user", "content": [{"type": "text", "text": "What is the weather in Ely?"}]},
        {"role": "assistant", "content": [thinking, {"type": "text", "text": "I look."}, *calls]},
        {"role": "user", "content": results},
    ]

    with roomy.beta.messages.stream(messages=messages, **fields) as stream:
        first = stream.get_final_message()
    assert first.usage.output_tokens
    fields["system"][0]["text"] = "x-anthropic-billing-header: cc_version=2.1; cch=2;"
    count_fields = {name: fields[name] for name in ("model", "system", "tools", "thinking", "betas")}
    counted = roomy.beta.messages.count_tokens(messages=messages, **count_fields)
    again = roomy.beta.messages.create(messages=messages, **fields)
    assert counted.input_tokens == again.usage.input_tokens + (again.usage.cache_read_input_tokens or 0)
    assert (
        again.usage.cache_read_input_tokens or 0
    ) > again.usage.input_tokens  # the changed header is not in the prompt

    required: Any = {**fields, "tool_choice": {"type": "tool", "name": "tool_7"}, "max_tokens": 80}
    with roomy.beta.messages.stream(messages=messages, **required) as stream:
        blocks = stream.get_final_message().content
    assert blocks
    assert {(block.type, block.to_dict().get("name")) for block in blocks} == {("tool_use", "tool_7")}


def test_prompts_that_are_too_long_are_recognised(anthropic: Anthropic) -> None:
    messages: Any = [{"role": "user", "content": "word " * 9000}]
    with pytest.raises(BadRequestError, match=r"prompt is too long: \d+ tokens > \d+ maximum") as caught:
        anthropic.messages.create(model="any", max_tokens=4, messages=messages)
    assert caught.value.type == "invalid_request_error"


def test_closing_a_stream_ends_the_generation(anthropic: Anthropic, http: httpx.Client) -> None:
    def busy() -> int:
        return sum(slot["is_processing"] for slot in http.get("/slots").json())

    wait_until(lambda: busy() == 0)
    extra = {"ignore_eos": True, "max_tokens": 10**6}
    stream = anthropic.messages.create(model="any", max_tokens=9, messages=ASK, stream=True, extra_body=extra)
    assert next(iter(stream)).type == "message_start"
    wait_until(lambda: busy() == 1)
    stream.close()
    wait_until(lambda: busy() == 0)
