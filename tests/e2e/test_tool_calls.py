"""Tool calls of the default model, in several formats, with the ``openai`` client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openai import OpenAI

from llamafw.testing.process import running_server

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "pattern": "^[A-Z][a-z]{2,12}$"},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
        "units": {"enum": ["metric", "imperial"]},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
CLOCK: dict[str, Any] = {
    "type": "object",
    "properties": {"zone": {"enum": ["UTC", "CET"]}},
    "required": ["zone"],
    "additionalProperties": False,
}
SCHEMAS = {"get_weather": WEATHER, "clock": CLOCK}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
ASK: list[Any] = [{"role": "user", "content": "What is the weather in Paris for the next 3 days?"}]
FIELDS: dict[str, Any] = {"model": "any", "tools": TOOLS, "max_tokens": 200, "parallel_tool_calls": False}
FORMATS = ["hermes", "llama4", "qwen3-coder", "gemma4", "harmony"]


@pytest.fixture(scope="module", params=FORMATS)
def client(request: pytest.FixtureRequest, real_model: Path) -> Iterator[OpenAI]:
    options = ("-np", "2", "-c", "4096", "--tool-parser", request.param, "--validate-responses")
    with (
        running_server(real_model, *options) as server,
        OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as openai,
    ):
        yield openai


def ask(client: OpenAI, **fields: Any) -> Any:
    messages = fields.pop("messages", ASK)
    return client.chat.completions.create(messages=messages, **{**FIELDS, **fields})


@pytest.mark.client("openai", "chat.completions.create")
def test_required_calls_are_valid_and_can_be_sent_back(client: OpenAI) -> None:
    for seed in range(4):
        message = ask(client, tool_choice="required", seed=seed, temperature=1.0).choices[0].message
        (call,) = message.tool_calls
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
        assert not message.content

    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    answer = ask(client, messages=[*ASK, message.model_dump(exclude_none=True), result], max_tokens=8)
    assert answer.choices[0].finish_reason in ("stop", "length")


@pytest.mark.client("openai", "chat.completions.create")
def test_streamed_call_is_the_same_in_pieces(client: OpenAI) -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}
    (whole,) = ask(client, tool_choice=named, temperature=0).choices[0].message.tool_calls
    chunks = list(ask(client, tool_choice=named, temperature=0, stream=True))
    pieces = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or []]
    assert len(pieces) >= 3
    assert [piece.function.name for piece in pieces if piece.function.name] == ["get_weather"]
    assert "".join(piece.function.arguments for piece in pieces) == whole.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.client("openai", "chat.completions.create")
def test_response_is_a_call_or_json(client: OpenAI) -> None:
    properties = {"ok": {"type": "boolean"}}
    schema = {"type": "object", "properties": properties, "required": ["ok"], "additionalProperties": False}
    message = (
        ask(
            client,
            response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
            temperature=0,
        )
        .choices[0]
        .message
    )
    for call in message.tool_calls or []:
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
    if not message.tool_calls:
        assert json.loads(message.content)["ok"] in (True, False)


@pytest.mark.client("openai", "chat.completions.create")
def test_cut_calls_are_not_content(client: OpenAI) -> None:
    for n in (1, 4, 9):  # the shortest call has 14 tokens
        choice = ask(client, tool_choice="required", max_tokens=n, temperature=0).choices[0]
        assert choice.finish_reason == "length"
        assert not choice.message.content
