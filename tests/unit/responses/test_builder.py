"""Responses are built from the pieces of an answer, and their events have OpenAI's types and order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from openai.types.responses import Response

from llamafw import Delta, Finish, GeneratedToken, Problem, PromptProgress, Timings
from llamafw_plugins.endpoints.answers import AnswerDelta, CallDelta
from llamafw_plugins.responses.builder import BuilderOptions, ResponseBuilder
from llamafw_plugins.responses.input_items import decode_reasoning
from support.responses import check_events
from support.toy_model import ToyTokenizer

HEAD: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "model": "m",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}
END = Finish("eos", n_prompt=7, n_cached=3, n_predicted=9, tokens=(1, 2))
Piece = tuple[str, AnswerDelta]


def tokens_of(text: str) -> tuple[GeneratedToken, ...]:
    """Return a token for each byte."""
    return tuple(GeneratedToken(byte, bytes([byte]), -0.5) for byte in text.encode())


def build(
    *pieces: Piece, finish: Finish = END, options: BuilderOptions | None = None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the events of an answer and the final response; a piece is generated text and what it adds."""
    builder = ResponseBuilder(dict(HEAD), ToyTokenizer(), options or BuilderOptions())
    events = list(builder.start())
    for i, (text, answer) in enumerate(pieces):
        end = finish if i == len(pieces) - 1 else None
        events += builder.feed(Delta(text, tokens_of(text), finish=end), answer)
    return events, check_events(events)


def types(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def call(index: int, arguments: str, name: str | None = None) -> AnswerDelta:
    return AnswerDelta(calls=(CallDelta(index, f"call_{index}", name, arguments),))


def test_text_has_the_events_of_a_message() -> None:
    events, response = build(("He", AnswerDelta(text="He")), ("y", AnswerDelta(text="y")))
    assert types(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert Response.model_validate(response).output_text == "Hey"
    assert response["status"] == "completed"
    assert response["completed_at"] > 1
    assert response["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 4},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 16,
    }


def test_reasoning_text_and_calls_are_items_in_their_order() -> None:
    events, response = build(
        ("<t>hm</t>", AnswerDelta(reasoning="hm")),
        ("So", AnswerDelta(text="So")),
        ("…", call(0, '{"city": ', "weather")),
        ("…", call(0, '"Ely"}')),
        ("…", call(1, "{}", "clock")),
        ("…", AnswerDelta(text="Done")),
    )
    assert [item["type"] for item in response["output"]] == [
        "reasoning",
        "message",
        "function_call",
        "function_call",
        "message",
    ]
    first, second = response["output"][2:4]
    assert (first["name"], first["arguments"], first["call_id"]) == ("weather", '{"city": "Ely"}', "call_0")
    assert (second["name"], second["arguments"]) == ("clock", "{}")
    assert types(events).count("function_call_arguments.delta") == 3
    assert types(events).count("function_call_arguments.done") == 2
    assert {item["status"] for item in response["output"]} == {"completed"}
    assert len({item["id"] for item in response["output"]}) == 5


def test_one_piece_may_have_everything() -> None:
    answer = AnswerDelta("hm", "So", (CallDelta(0, "a", "f", "{}"), CallDelta(1, "b", "g", "")))
    _, response = build(("<t>hm</t>So…", answer))
    assert [item["type"] for item in response["output"]] == ["reasoning", "message", "function_call", "function_call"]


def test_reasoning_is_content_by_default() -> None:
    events, response = build(("a", AnswerDelta(reasoning="a")), ("b", AnswerDelta(reasoning="b", text="c")))
    assert types(events)[2:8] == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
    ]
    item = response["output"][0]
    assert (item["content"], item["summary"]) == ([{"type": "reasoning_text", "text": "ab"}], [])
    assert "encrypted_content" not in item


def test_reasoning_may_be_a_summary_and_encoded() -> None:
    options = BuilderOptions(reasoning_as_summary=True, encoded_reasoning=True)
    events, response = build(("a", AnswerDelta(reasoning="ä")), ("b", AnswerDelta(text="c")), options=options)
    assert types(events)[2:7] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
    ]
    item = response["output"][0]
    assert item["summary"] == [{"type": "summary_text", "text": "ä"}]
    assert "content" not in item
    assert decode_reasoning(item["encrypted_content"]) == "ä"
    assert "ä" not in item["encrypted_content"]


def test_usage_has_the_number_of_reasoning_tokens() -> None:
    _, response = build(
        ("<t>hm</t>", AnswerDelta(reasoning="hm")),
        ("\n\nyes", AnswerDelta(text="yes")),
        finish=Finish("eos", n_predicted=15, n_reasoning=2),
    )
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 2}


def test_logprobs_belong_to_the_text() -> None:
    events, response = build(
        ("<t>hm</t>", AnswerDelta(reasoning="hm")),
        ("ok", AnswerDelta(text="o")),  # the reader holds a character back
        ("<", AnswerDelta(text="k")),
        ("call>", call(0, "{}", "f")),
        options=BuilderOptions(logprobs=True),
    )
    (part,) = response["output"][1]["content"]
    assert [token["token"] for token in part["logprobs"]] == ["o", "k"]
    assert part["logprobs"][0] == {"id": 111, "token": "o", "bytes": [111], "logprob": -0.5, "top_logprobs": []}
    deltas = [event["logprobs"] for event in events if event["type"] == "response.output_text.delta"]
    assert [[token["token"] for token in tokens] for tokens in deltas] == [["o"], ["k"]]


def test_answer_without_text_is_an_empty_message() -> None:
    _, response = build(("", AnswerDelta()))
    (item,) = response["output"]
    assert item["content"] == [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]


def test_limit_makes_the_response_incomplete() -> None:
    _, response = build(
        ("hm", AnswerDelta(reasoning="hm")), ("a", AnswerDelta(text="a")), finish=Finish("limit", truncated=True)
    )
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]
    assert response["completed_at"] is None
    assert response["truncated"] is True


@pytest.mark.parametrize(("arguments", "status"), [('{"a": 1}', "completed"), ('{"a": ', "incomplete")])
def test_call_that_a_limit_cuts_is_incomplete(arguments: str, status: str) -> None:
    _, response = build(("x", call(0, arguments, "f")), finish=Finish("limit"))
    assert (response["output"][0]["status"], response["status"]) == (status, "incomplete")


@pytest.mark.parametrize(
    ("status", "code"),
    [(500, "server_error"), (503, "server_error"), (429, "rate_limit_exceeded"), (400, "invalid_prompt")],
)
def test_failure_ends_the_response_with_two_events(status: int, code: str) -> None:
    builder = ResponseBuilder(dict(HEAD), ToyTokenizer(), BuilderOptions())
    events = [*builder.start(), *builder.feed(Delta("a", tokens_of("a")), AnswerDelta(text="a"))]
    events += builder.fail(Problem(status, "it broke", "some_error", "input.0"))
    response = check_events(events)
    assert types(events)[-3:] == ["output_item.done", "error", "failed"]
    assert {name: events[-2][name] for name in ("code", "message", "param")} == {
        "code": code,
        "message": "it broke",
        "param": "input.0",
    }
    assert response["status"] == "failed"
    assert response["error"]["code"] == code
    assert response["output"][0]["status"] == "incomplete"


def test_failure_before_the_first_event_begins_the_response() -> None:
    builder = ResponseBuilder(dict(HEAD), ToyTokenizer(), BuilderOptions())
    events = list(builder.fail(Problem(400, "the schema is invalid", "invalid_request_error", "text.format")))
    assert types(events) == ["created", "in_progress", "error", "failed"]
    assert check_events(events)["status"] == "failed"


def test_cancelled_response_keeps_its_text() -> None:
    builder = ResponseBuilder(dict(HEAD), ToyTokenizer(), BuilderOptions())
    events = [*builder.enqueue(), *builder.go_on(), *builder.feed(Delta("a"), AnswerDelta(text="a")), *builder.cancel()]
    response = check_events(events)
    assert types(events)[:3] == ["created", "queued", "in_progress"]
    assert response["status"] == "cancelled"
    assert response["output"][0]["content"][0]["text"] == "a"


def test_progress_and_timings_are_extra_members() -> None:
    builder = ResponseBuilder(dict(HEAD), ToyTokenizer(), BuilderOptions())
    events = [*builder.go_on(), *builder.feed(Delta("", progress=PromptProgress(8, 2, 4, 1.5)), AnswerDelta())]
    events += builder.feed(Delta("a", timings=Timings(predicted_n=1)), AnswerDelta(text="a"))
    events += builder.feed(Delta("", finish=END), AnswerDelta())
    check_events(events)
    assert events[2]["type"] == "response.in_progress"
    assert events[2]["prompt_progress"] == {"total": 8, "cache": 2, "processed": 4, "time_ms": 1.5}
    (delta,) = [event for event in events if event["type"] == "response.output_text.delta"]
    assert delta["timings"]["predicted_n"] == 1


def test_obfuscation_hides_the_lengths_of_deltas() -> None:
    pieces = [("a" * n, AnswerDelta(text="a" * n)) for n in (1, 5, 31, 32, 33)]
    events, _ = build(*pieces, options=BuilderOptions(obfuscation=True))
    sizes = {len(event["delta"]) + len(event["obfuscation"]) for event in events if "delta" in event}
    assert sizes == {32, 64}


def test_token_ids_are_returned_if_requested() -> None:
    assert build(("a", AnswerDelta(text="a")), options=BuilderOptions(tokens=True))[1]["tokens"] == [1, 2]
    assert "tokens" not in build(("a", AnswerDelta(text="a")))[1]
