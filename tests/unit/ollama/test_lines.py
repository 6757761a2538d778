"""Lines of Ollama's streams, built from pieces of answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import ollama
import pytest

from llamafw import Finish, RequestError, Timings
from llamafw_plugins.endpoints.answers import AnswerDelta, CallDelta
from llamafw_plugins.ollama.chat import ChatLines, chat_messages
from llamafw_plugins.ollama.generate import CompletionLines
from llamafw_plugins.ollama.lines import LineBuilder
from llamafw_plugins.ollama.options import errors_about, thinking_fields

APP: Any = SimpleNamespace(loaded=SimpleNamespace(tokenizer=None))
FINISH = Finish("eos", n_prompt=9, n_cached=4, n_predicted=7, timings=Timings(prompt_ms=1.5, predicted_ms=2.25))
CALL: dict[str, Any] = {"function": {"name": "look", "arguments": {"at": "é"}}}


def built(builder: LineBuilder, *deltas: AnswerDelta, finish: Finish = FINISH) -> list[Any]:
    """Return the lines of an answer."""
    lines: list[Any] = []
    for i, delta in enumerate(deltas):
        lines += builder.read(delta, (), last=i == len(deltas) - 1)
    return [*lines, builder.end(finish)]


def chat_lines(*deltas: AnswerDelta, **options: Any) -> tuple[list[Any], ollama.ChatResponse]:
    """Return the lines of a chat and the whole response, both checked with the types of the client."""
    builder = ChatLines(APP, {"model": "m"})
    lines = built(builder, *deltas, **options)
    for line in lines:
        ollama.ChatResponse.model_validate(line, strict=True)
    return lines, ollama.ChatResponse.model_validate(builder.whole(lines), strict=True)


def test_thinking_and_text_have_members_of_their_own() -> None:
    lines, whole = chat_lines(
        AnswerDelta(reasoning="Hm"), AnswerDelta(reasoning=".", text="Yes"), AnswerDelta(text="!")
    )
    assert [line["message"] for line in lines] == [
        {"role": "assistant", "content": "", "thinking": "Hm"},
        {"role": "assistant", "content": "Yes", "thinking": "."},
        {"role": "assistant", "content": "!"},
        {"role": "assistant", "content": ""},
    ]
    assert (whole.message.thinking, whole.message.content) == ("Hm.", "Yes!")


@pytest.mark.parametrize("n_pieces", [1, 2, 9])
def test_calls_in_pieces_are_sent_whole(n_pieces: int) -> None:
    arguments = '{"at": "é\\n"}'
    size = -(-len(arguments) // n_pieces)
    pieces = [arguments[i : i + size] for i in range(0, len(arguments), size)]
    first = [CallDelta(0, "c0", "look" if i == 0 else None, piece) for i, piece in enumerate(pieces)]
    deltas = [AnswerDelta(calls=(call,)) for call in first]
    lines, whole = chat_lines(*deltas, AnswerDelta(calls=(CallDelta(1, "c1", "stop", ""),)), AnswerDelta())
    calls = [call for line in lines for call in line["message"].get("tool_calls", ())]
    assert calls == [
        {"id": "c0", "function": {"index": 0, "name": "look", "arguments": {"at": "é\n"}}},
        {"id": "c1", "function": {"index": 1, "name": "stop", "arguments": {}}},
    ]
    assert len(whole.message.tool_calls or ()) == 2


@pytest.mark.parametrize("arguments", ['{"at": ', "[1]", "nothing"])
def test_calls_without_whole_arguments_are_left_out(arguments: str) -> None:
    deltas = AnswerDelta(text="a", calls=(CallDelta(0, "c0", "look", arguments),))
    lines, whole = chat_lines(deltas, finish=Finish("limit"))
    assert whole.message.tool_calls is None
    assert lines[-1]["done_reason"] == "length"


def test_calls_before_text_keep_their_place() -> None:
    lines, _ = chat_lines(AnswerDelta(calls=(CallDelta(0, "c", "look", "{}"),)), AnswerDelta(text="So"))
    assert lines[0]["message"]["tool_calls"][0]["id"] == "c"
    assert lines[0]["message"]["content"] == "So"


def test_last_line_has_counts_and_nanoseconds() -> None:
    last = chat_lines(AnswerDelta(text="a"))[0][-1]
    assert last["total_duration"] > 0
    expected = {"prompt_eval_count": 9, "prompt_eval_cached_count": 4, "eval_count": 7, "load_duration": 0}
    expected |= {"prompt_eval_duration": 1_500_000, "eval_duration": 2_250_000}
    assert {name: last[name] for name in expected} == expected


def test_completions_have_a_response_and_a_context() -> None:
    builder = CompletionLines(APP, {"model": "m"})
    builder.prompt = (1, 2)
    finish = Finish("limit", tokens=(3, 4))
    lines = built(builder, AnswerDelta(reasoning="Hm"), AnswerDelta(text="Yes"), finish=finish)
    whole = ollama.GenerateResponse.model_validate(builder.whole(lines), strict=True)
    assert (whole.response, whole.thinking, whole.context) == ("Yes", "Hm", [1, 2, 3, 4])


def test_results_belong_to_calls() -> None:
    messages = chat_messages(
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "thinking": "Hm", "tool_calls": [CALL, CALL, {**CALL, "id": "own"}]},
            {"role": "tool", "content": "a", "tool_name": "look"},
            {"role": "tool", "content": "b", "tool_call_id": "own"},
            {"role": "tool", "content": "c"},
            {"role": "tool", "content": "d", "tool_name": "other"},
        ]
    )
    assert messages[1]["reasoning_content"] == "Hm"
    assert [call["id"] for call in messages[1]["tool_calls"]] == ["call_1_0", "call_1_1", "own"]
    assert messages[1]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"at":"é"}'}
    assert [message["tool_call_id"] for message in messages[2:]] == ["call_1_0", "own", "call_1_1", "call_5"]
    assert [message["name"] for message in messages[2:]] == ["look", "look", "look", "other"]


@pytest.mark.parametrize(
    ("think", "expected"),
    [
        (None, {}),
        (True, {"enable_thinking": True}),
        (False, {"enable_thinking": False}),
        ("low", {"enable_thinking": True, "reasoning_effort": "low"}),
        ("max", {"enable_thinking": True, "reasoning_effort": "high"}),
    ],
)
def test_think_switches_reasoning(think: Any, expected: Any) -> None:
    assert thinking_fields({"think": think}) == expected


CHAT: dict[str, Any] = {"model": "any", "messages": []}
PROMPT: dict[str, Any] = {"model": "any", "prompt": "a"}


@pytest.mark.parametrize(
    ("body", "param", "expected"),
    [
        (CHAT, "response_format.json_schema.schema.properties.a", "format.properties.a"),
        (CHAT, "response_format", "format"),
        (CHAT, "reasoning_effort", "think"),
        (CHAT, "messages.1.content", "messages.1.content"),
        (CHAT, "prompt", "messages"),
        (CHAT, "tools.0.function.name", "tools.0.function.name"),
        ({**CHAT, "options": {"num_predict": 1, "stop": []}}, "n_predict", "options.num_predict"),
        ({**CHAT, "options": {"num_predict": 1, "stop": [""]}}, "stop.0", "options.stop.0"),
        (PROMPT, "messages.0.content", "prompt"),
        (PROMPT, "prompt", "prompt"),
        (PROMPT, "context.3", "context.3"),
        ({**PROMPT, "system": "b"}, "messages.0.content", "system"),
        ({**PROMPT, "system": "b"}, "messages.1.content", "prompt"),
        ({**PROMPT, "system": "b"}, "messages", "prompt"),
    ],
)
def test_errors_name_the_fields_of_the_request(body: Any, param: str, expected: str) -> None:
    with pytest.raises(RequestError) as caught, errors_about(body):
        raise RequestError("no", param=param)
    assert caught.value.param == expected
