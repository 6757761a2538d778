"""Answers held to grammars and schemas, in all the forms that requests have for them."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from llamafw import GrammarSource
from support.toy import noise
from unit.endpoints.conftest import read_events

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
CHAT, NATIVE, TEXT = "/v1/chat/completions", "/completion", "/v1/completions"


async def ask(opened: Any, path: str, own: GrammarSource | None = None, **fields: Any) -> str:
    """Return the text of an answer, of a model of random scores."""
    async with opened(scores=noise, n_ctx=512, grammar=own) as client:
        prompt = {"messages": HI} if path == CHAT else {"prompt": "hi"}
        response = await client.post(path, json={**prompt, "seed": 1, "max_tokens": 64, **fields})
        assert response.status_code == 200, response.text
        found = response.json()
        if path == NATIVE:
            return str(found["content"])
        choice = found["choices"][0]
        return str(choice["message"]["content"] if path == CHAT else choice["text"])


FORMS = [
    (NATIVE, {"json_schema": SCHEMA}),
    (TEXT, {"json_schema": SCHEMA}),
    (CHAT, {"json_schema": SCHEMA}),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}),
    (CHAT, {"response_format": {"type": "json_schema", "schema": SCHEMA}}),
    (CHAT, {"response_format": {"type": "json_object", "schema": SCHEMA}}),
]


@pytest.mark.inventory("E-033", "E-105", "F-08", "D-12", "J-05")
@pytest.mark.parametrize(("path", "fields"), FORMS)
@pytest.mark.parametrize("temperature", [0, 1.5])
async def test_every_form_of_a_schema(opened: Any, path: str, fields: dict[str, Any], temperature: float) -> None:
    jsonschema.validate(json.loads(await ask(opened, path, temperature=temperature, **fields)), SCHEMA)


@pytest.mark.inventory("E-032", "S-02")
@pytest.mark.parametrize("path", [NATIVE, TEXT, CHAT])
async def test_a_grammar(opened: Any, path: str) -> None:
    assert await ask(opened, path, grammar='root ::= "yes" | "no"') in ("yes", "no")


@pytest.mark.inventory("E-105")
async def test_a_json_object(opened: Any) -> None:
    ending = {"125": 9, "34": 3}  # braces and quotes, so that it comes to an end
    text = await ask(opened, CHAT, response_format={"type": "json_object"}, logit_bias=ending, max_tokens=400)
    assert isinstance(json.loads(text), dict)


@pytest.mark.inventory("E-034", "J-04")
async def test_null_asks_for_nothing(opened: Any) -> None:
    assert json.loads(await ask(opened, NATIVE, grammar=None, json_schema=SCHEMA))["a"] in (1, 2)
    async with opened() as client:
        body = {"prompt": "a", "n_predict": 2, "temperature": 0, "grammar": None, "json_schema": None}
        assert (await client.post(NATIVE, json=body)).json()["content"] == "bc"


@pytest.mark.inventory("C-093", "C-094", "C-095")
async def test_the_servers_own_grammar_and_a_requests(opened: Any) -> None:
    own = GrammarSource("gbnf", 'root ::= "own"')
    assert await ask(opened, NATIVE, own) == "own"
    assert await ask(opened, CHAT, own) == "own"
    assert await ask(opened, NATIVE, own, grammar='root ::= "mine"') == "mine"
    assert await ask(opened, CHAT, own, response_format={"type": "text"}) != "own"


@pytest.mark.inventory("F-04", "D-11", "J-01", "G-03")
@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (NATIVE, {"grammar": "root ::= ("}, "grammar"),
        (NATIVE, {"grammar": 5}, "grammar"),
        (NATIVE, {"json_schema": {"properties": {"a": {"not": {}}}}}, "json_schema.properties.a.not"),
        (NATIVE, {"json_schema": "x"}, "json_schema"),
        (NATIVE, {"grammar": 'root ::= "a"', "json_schema": {}}, "json_schema"),
        (
            CHAT,
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}},
            "response_format.json_schema.schema.not",
        ),
        (CHAT, {"response_format": {"type": "json_object"}, "json_schema": {}}, "response_format"),
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema"),
        (
            CHAT,
            {
                "response_format": {"type": "json_object"},
                "tools": [{"type": "function", "function": {"name": "f"}}],
                "tool_choice": "required",
            },
            "tool_choice",
        ),
        (
            CHAT,
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}],
                "tool_choice": "required",
            },
            "tools",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_nothing_is_ever_left_unconstrained(
    opened: Any, path: str, fields: dict[str, Any], param: str, stream: bool
) -> None:
    async with opened(n_ctx=512) as client:
        response = await client.post(path, json={"messages": HI, "prompt": "a", "stream": stream, **fields})
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, param), error


@pytest.mark.inventory("E-108")
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "g"}}])
async def test_calls_that_are_required(opened: Any, choice: Any) -> None:
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
    one = {"tools": tools, "tool_choice": choice, "parallel_tool_calls": False}
    body = {"messages": HI, "seed": 2, "max_tokens": 200, **one}
    async with opened(scores=noise, n_ctx=2048) as client:
        message = (await client.post(CHAT, json=body)).json()["choices"][0]["message"]
        events = read_events((await client.post(CHAT, json={**body, "stream": True})).text)
    (call,) = message["tool_calls"]
    assert call["function"]["name"] in (("f", "g") if choice == "required" else ("g",))
    assert json.loads(call["function"]["arguments"])["x"] in (1, 2)
    assert message["content"] is None
    calls = [one for event in events[:-1] for one in event["choices"][0]["delta"].get("tool_calls", [])]
    assert [one["function"] for one in calls] == [call["function"]]


async def test_several_answers_each_have_a_grammar_of_their_own(opened: Any) -> None:
    async with opened(scores=noise, n_ctx=512) as client:
        body = {"messages": HI, "n": 4, "seed": 3, "grammar": 'root ::= "a" [0-9]{3} "b"', "max_tokens": 20}
        choices = (await client.post(CHAT, json=body)).json()["choices"]
    texts = [choice["message"]["content"] for choice in choices]
    assert len(set(texts)) > 1
    assert all(len(text) == 5 and text[0] == "a" and text[-1] == "b" for text in texts)
