"""Tests of answers in one piece and in several, of text that is not a call, and of required calls in a server."""

import json
from typing import Any

import pytest
from llamafw_pythonic import Pythonic

from llamafw import ToolContext
from llamafw.testing.conformance import PluginConformance, ToolParserConformance

CALLS = [("get_weather", {"city": 'Pa"ri]s', "days": -3, "units": ["C", None, True]}), ("get-time", {})]
ANSWER = """[get_weather(city='Pa"ri]s', days=-3, units=["C", null, True]), get-time()]"""
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "required": ["city"],
                "properties": {
                    "days": {"type": "integer", "minimum": 1, "maximum": 9},
                    "city": {"enum": ["Paris", "Rome"]},
                },
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "roll",
            "parameters": {"type": "object", "properties": {"sides": {"enum": [6, 20]}, "times": {"enum": [1, 2]}}},
        },
    },
]


def read(*pieces: str) -> tuple[str, list[tuple[str, Any]]]:
    parser = Pythonic().create(ToolContext())
    deltas = [*map(parser.feed, pieces), parser.finish()]
    calls = [(call.name, json.loads(call.arguments)) for delta in deltas for call in delta.calls if call.name]
    return "".join(delta.text for delta in deltas), calls


@pytest.mark.parametrize("size", [1, 7, 99])
def test_calls_are_read_in_pieces_of_any_size(size: int) -> None:
    answer = f" {ANSWER} Done."
    assert read(*(answer[i : i + size] for i in range(0, len(answer), size))) == ("Done.", CALLS)


@pytest.mark.parametrize(
    "answer",
    [
        "Hello [f(x=1)]",
        "[1, 2, 3]",
        "[see below]",
        "[f(x=1)",
        "[f(1)]",
        "[f(x=g())]",
        "[f(x=open('a'))]",
        "[f(x={1, 2})]",
        "[f(x=1), 2]",
        "[f(x=1e999)]",
        r"[f(x='\ud800')]",
        "[]",
        "[f(" + "[" * 500 + ")]",
        "",
    ],
)
def test_anything_but_a_list_of_calls_is_text(answer: str) -> None:
    assert read(*answer) == (answer, [])


def test_text_is_released_when_it_cannot_be_a_call() -> None:
    parser = Pythonic().create(ToolContext())
    assert [parser.feed(piece).text for piece in ("[see", " below", "]")] == ["", "[see below", "]"]


@pytest.mark.parametrize("stream", [False, True])
async def test_server_enforces_and_reads_a_required_call(serve: Any, stream: bool) -> None:
    async with serve(tool_parser="pythonic", parallel=1, ctx_size=1024) as client:  # the tools make a long prompt
        for seed in range(8):
            body = {
                "messages": [{"role": "user", "content": "?"}],
                "tools": TOOLS,
                "tool_choice": "required",
                "seed": seed,
                "max_tokens": 400,
                "stream": stream,
                "parallel_tool_calls": False,
            }
            response = await client.post("/v1/chat/completions", json=body)
            assert response.status_code == 200, response.text
            if stream:
                chunks = [json.loads(line[6:]) for line in response.text.split("\n\n") if line.startswith("data: {")]
                (call,) = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
            else:
                (call,) = response.json()["choices"][0]["message"]["tool_calls"]

            arguments = json.loads(call["function"]["arguments"])
            if call["function"]["name"] == "roll":
                assert arguments.items() <= {("sides", 6), ("sides", 20), ("times", 1), ("times", 2)}
            else:
                assert arguments["city"] in ("Paris", "Rome")
                assert 1 <= arguments.get("days", 1) <= 9


class TestPythonic(ToolParserConformance):
    name = "pythonic"


class TestPlugin(PluginConformance):
    name = "llamafw-pythonic"
