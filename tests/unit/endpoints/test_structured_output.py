"""`grammar`, `json_schema` and `response_format` constrain answers."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from llamafw import GrammarSource
from support.toy_model import random_logits
from unit.endpoints.conftest import Open, read_events

pytestmark = pytest.mark.slow

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
CHAT, NATIVE, TEXT = "/v1/chat/completions", "/completion", "/v1/completions"


async def ask(opened: Open, path: str, server_grammar: GrammarSource | None = None, **fields: Any) -> str:
    """Return the text that a model with random scores answers."""
    async with opened(scores=random_logits, n_ctx=512, grammar=server_grammar) as client:
        prompt = {"messages": HI} if path == CHAT else {"prompt": "hi"}
        response = await client.post(path, json={**prompt, "seed": 1, "max_tokens": 64, **fields})
        assert response.status_code == 200, response.text
    if path == NATIVE:
        return str(response.json()["content"])
    choice = response.json()["choices"][0]
    return str(choice["message"]["content"] if path == CHAT else choice["text"])


SCHEMA_REQUESTS: list[tuple[str, dict[str, Any]]] = [
    (NATIVE, {"json_schema": SCHEMA}),
    (TEXT, {"json_schema": SCHEMA}),
    (CHAT, {"json_schema": SCHEMA}),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}),
    (CHAT, {"response_format": {"type": "json_schema", "schema": SCHEMA}}),
    (CHAT, {"response_format": {"type": "json_object", "schema": SCHEMA}}),
    (TEXT, {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}),
    (TEXT, {"response_format": {"type": "json_object", "schema": SCHEMA}}),
]


@pytest.mark.inventory("E-033", "E-105", "F-08", "D-12", "J-05")
@pytest.mark.parametrize(("path", "fields"), SCHEMA_REQUESTS)
@pytest.mark.parametrize("temperature", [0, 1.5])
async def test_answer_matches_the_schema(opened: Open, path: str, fields: dict[str, Any], temperature: float) -> None:
    jsonschema.validate(json.loads(await ask(opened, path, temperature=temperature, **fields)), SCHEMA)


@pytest.mark.inventory("E-032", "S-02")
@pytest.mark.parametrize("path", [NATIVE, TEXT, CHAT])
async def test_answer_matches_the_grammar(opened: Open, path: str) -> None:
    assert await ask(opened, path, grammar='root ::= "yes" | "no"') in ("yes", "no")


@pytest.mark.inventory("E-105")
async def test_json_object_format_gives_an_object(opened: Open) -> None:
    bias = {"125": 9, "34": 3}  # makes closing braces and quotes likely, so that the object ends
    text = await ask(opened, CHAT, response_format={"type": "json_object"}, logit_bias=bias, max_tokens=400)
    assert isinstance(json.loads(text), dict)


@pytest.mark.inventory("E-034", "J-04")
async def test_null_does_not_constrain(opened: Open) -> None:
    assert json.loads(await ask(opened, NATIVE, grammar=None, json_schema=SCHEMA))["a"] in (1, 2)
    async with opened() as client:
        body = {"prompt": "a", "n_predict": 2, "temperature": 0, "grammar": None, "json_schema": None}
        assert (await client.post(NATIVE, json=body)).json()["content"] == "bc"


@pytest.mark.inventory("C-093", "C-094", "C-095")
async def test_request_replaces_the_servers_grammar(opened: Open) -> None:
    default = GrammarSource("gbnf", 'root ::= "server"')
    assert await ask(opened, NATIVE, default) == "server"
    assert await ask(opened, CHAT, default) == "server"
    assert await ask(opened, NATIVE, default, grammar='root ::= "request"') == "request"
    assert await ask(opened, CHAT, default, response_format={"type": "text"}) != "server"


@pytest.mark.inventory("F-04", "D-11", "J-01", "G-03")
@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (NATIVE, {"grammar": "root ::= ("}, "grammar"),
        (NATIVE, {"grammar": 5}, "grammar"),
        (NATIVE, {"json_schema": {"properties": {"a": {"not": {"type": "null"}}}}}, "json_schema.properties.a.not"),
        (NATIVE, {"json_schema": "x"}, "json_schema"),
        (NATIVE, {"grammar": 'root ::= "a"', "json_schema": {}}, "json_schema"),
        (
            CHAT,
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {"type": "null"}}}}},
            "response_format.json_schema.schema.not",
        ),
        (CHAT, {"response_format": {"type": "json_object"}, "json_schema": {}}, "response_format"),
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema"),
        (
            CHAT,
            {
                "grammar": 'root ::= "a"',
                "tools": [{"type": "function", "function": {"name": "f"}}],
                "tool_choice": "required",
            },
            "tool_choice",
        ),
        (
            CHAT,
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {"type": "null"}}}}],
                "tool_choice": "required",
            },
            "tools.0.function.parameters.not",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_unenforceable_constraints_are_400(
    opened: Open, path: str, fields: dict[str, Any], param: str, stream: bool
) -> None:
    async with opened(n_ctx=512) as client:
        response = await client.post(path, json={"messages": HI, "prompt": "a", "stream": stream, **fields})
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, param), error


@pytest.mark.inventory("E-108")
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "g"}}])
async def test_required_tool_call_is_enforced(opened: Open, choice: Any) -> None:
    tools = [
        {
            "type": "function",
            "function": {
                "name": name,
                "parameters": {
                    "type": "object",
                    "properties": {"x": {"enum": [1, 2]}},
                    "required": ["x"],
                    "additionalProperties": False,
                },
            },
        }
        for name in ("f", "g")
    ]
    body: dict[str, Any] = {"messages": HI, "seed": 2, "max_tokens": 200, "tools": tools, "tool_choice": choice}
    body["parallel_tool_calls"] = False
    async with opened(scores=random_logits, n_ctx=2048) as client:
        message = (await client.post(CHAT, json=body)).json()["choices"][0]["message"]
        *chunks, _ = read_events((await client.post(CHAT, json={**body, "stream": True})).text)

    (call,) = message["tool_calls"]
    assert call["function"]["name"] in (("f", "g") if choice == "required" else ("g",))
    assert json.loads(call["function"]["arguments"])["x"] in (1, 2)
    assert message["content"] is None
    streamed = [each for chunk in chunks for each in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert [each["function"]["name"] for each in streamed if "name" in each["function"]] == [call["function"]["name"]]
    assert "".join(each["function"]["arguments"] for each in streamed) == call["function"]["arguments"]


async def test_every_choice_matches_the_grammar(opened: Open) -> None:
    async with opened(scores=random_logits, n_ctx=512) as client:
        body = {"messages": HI, "n": 4, "seed": 3, "grammar": 'root ::= "a" [0-9]{3} "b"', "max_tokens": 20}
        choices = (await client.post(CHAT, json=body)).json()["choices"]
    texts = [choice["message"]["content"] for choice in choices]
    assert len(set(texts)) > 1
    assert [re.fullmatch(r"a[0-9]{3}b", text) is not None for text in texts] == [True] * 4
