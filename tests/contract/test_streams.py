"""The stream checker accepts valid streams and reports the problems of others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llamafw.spec import load_document, operations
from llamafw.testing.contract.streams import StreamChecker

DOCUMENT = load_document()
OPERATIONS = {operation["operationId"]: operation for _, _, operation in operations(DOCUMENT)}
CHECKER = StreamChecker(DOCUMENT)
DONE = "[DONE]"


def piece(index: int = 0, **more: Any) -> dict[str, Any]:
    return {"content": "a", "stop": False, "id_slot": 0, "index": index, "multimodal": False, **more}


def timings() -> dict[str, Any]:
    names = ("prompt", "predicted")
    counts = {f"{name}_{what}": 1 for name in names for what in ("n", "ms", "per_token_ms", "per_second")}
    return {**counts, "cache_n": 0, "queue_ms": 0.5}


def final_event(index: int = 0) -> dict[str, Any]:
    ended = {f"stopped_{kind}": kind == "eos" for kind in ("eos", "word", "limit")}
    counts = dict.fromkeys(("tokens_predicted", "tokens_evaluated", "tokens_cached", "n_past"), 1)
    settings = {
        "n_ctx": 8,
        "n_predict": 1,
        "max_tokens": 1,
        "model": "m",
        "seed": 1,
        "stop": [],
        "samplers": [],
        "stream": True,
        "n_probs": 0,
        "min_keep": 0,
        "ignore_eos": False,
    }

    return {
        "content": "",
        "index": index,
        "id_slot": 0,
        "stop": True,
        "model": "m",
        "generation_settings": settings,
        "prompt": "p",
        "truncated": False,
        "stop_type": "eos",
        "stopping_word": "",
        "timings": timings(),
        **ended,
        **counts,
    }


def chunk(index: int = 0, reason: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": index, "text": "a", "finish_reason": reason, "logprobs": None}
    return {"id": "i", "object": "text_completion", "created": 1, "model": "m", "choices": [choice], **more}


def error(code: int = 400) -> dict[str, Any]:
    return {"error": {"code": code, "message": "no", "type": "t"}}


USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
WITH_USAGE = {"stream_options": {"include_usage": True}}
USAGE_CHUNK = {**chunk(), "choices": [], "usage": USAGE}


def problems_of(name: str, events: list[Any], body: Any = None, end: str = "") -> list[str]:
    text = "".join(f"data: {event if event == DONE else json.dumps(event)}\n\n" for event in events) + end
    return list(CHECKER.problems(text.encode(), OPERATIONS[name], body))


NATIVE, OPENAI = "createCompletion", "createTextCompletion"


def problems_of_response(*types: str, first: int = 0, step: int = 1) -> list[str]:
    """Return the problems of a stream of the Responses API that consists of events of some types."""
    content = {"text/event-stream": {"x-llamafw-event": {"$ref": "#/components/schemas/ResponseEvent"}}}
    document = {**DOCUMENT, "components": {"schemas": {"ResponseEvent": {"type": "object"}}}}
    events = [{"type": type, "sequence_number": first + step * i} for i, type in enumerate(types)]
    text = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    return list(StreamChecker(document).problems(text.encode(), {"responses": {"200": {"content": content}}}, {}))


def test_streams_of_responses_are_checked() -> None:
    created, text, end = "response.created", "response.output_text.delta", "response.completed"
    assert problems_of_response(created, text, end) == []
    assert problems_of_response(text, "error", "response.failed", first=4) == []
    assert "gaps" in problems_of_response(created, text, end, step=2)[0]
    for types in ([created, text], [created, end, text], [created, end, end]):
        assert "end of the response" in problems_of_response(*types)[0]


@pytest.mark.parametrize(
    ("name", "events", "body"),
    [
        (NATIVE, [piece(), piece(), final_event()], None),
        (NATIVE, [piece(0), piece(1), final_event(1), piece(0), final_event(0)], {}),
        (NATIVE, [final_event()], {}),
        (NATIVE, [piece(), error(503)], {}),
        (NATIVE, [piece(), {"content": "a"}], {"response_fields": ["content"]}),
        (OPENAI, [chunk(), chunk(reason="stop"), DONE], {}),
        (OPENAI, [chunk(0), chunk(1), chunk(1, "stop"), chunk(0, "length"), USAGE_CHUNK, DONE], WITH_USAGE),
        (OPENAI, [chunk(), error()], WITH_USAGE),
    ],
)
def test_valid_streams_have_no_problems(name: str, events: list[Any], body: Any) -> None:
    assert problems_of(name, events, body) == []


@pytest.mark.parametrize(
    ("name", "events", "body", "problem"),
    [
        (NATIVE, [], {}, "the stream has no events"),
        (NATIVE, [piece()], {}, "have begun, but [] have ended"),
        (NATIVE, [piece(), final_event(), piece()], {}, "continues after its final event"),
        (NATIVE, [piece(), final_event(), DONE], {}, "[DONE] is missing or misplaced"),
        (NATIVE, [piece(1), final_event(1)], {}, "have ended"),
        (NATIVE, [piece(), {"content": "a"}], {}, "does not match its schema"),
        (NATIVE, [piece(content=5), final_event()], {}, "does not match its schema"),
        (NATIVE, [error(), final_event()], {}, "an error is not the last event"),
        (NATIVE, [piece(), error(500)], {}, "the server has failed"),
        (OPENAI, [chunk(reason="stop")], {}, "[DONE] is missing or misplaced"),
        (OPENAI, [chunk(), error(), DONE], {}, "[DONE] is missing or misplaced"),
        (OPENAI, [DONE, chunk(reason="stop")], {}, "[DONE] is missing or misplaced"),
        (OPENAI, [chunk(), DONE], {}, "have begun, but [] have ended"),
        (OPENAI, [chunk(reason="stop"), chunk(), DONE], {}, "continues after its finish_reason"),
        (OPENAI, [chunk(reason="stop"), DONE], WITH_USAGE, "the usage is missing or misplaced"),
        (OPENAI, [chunk(reason="stop"), USAGE_CHUNK, DONE], {}, "the usage is missing or misplaced"),
        (OPENAI, [chunk(), chunk(reason="stop", id="j"), DONE], {}, "id, created or model differ between chunks"),
        (OPENAI, [chunk(reason="odd"), DONE], {}, "does not match its schema"),
        (OPENAI, [piece(), DONE], {}, "does not match its schema"),
    ],
)
def test_invalid_streams_are_reported(name: str, events: list[Any], body: Any, problem: str) -> None:
    problems = problems_of(name, events, body)
    assert any(problem in text for text in problems), problems


@pytest.mark.parametrize("end", ["data: {}", "\n\n", "event: x\ndata: {}\n\n", "data: {}\ndata: {}\n\n", ": comment"])
def test_malformed_events_are_reported(end: str) -> None:
    assert problems_of(NATIVE, [final_event()], {}, end)


@pytest.mark.parametrize("end", [":\n\n", ": comment\n\n:\n\n"])
def test_comments_are_not_events(end: str) -> None:
    assert problems_of(NATIVE, [final_event()], {}, end) == []


def test_events_of_plugins_may_have_a_name_and_an_id() -> None:
    content = {"text/event-stream": {"x-llamafw-event": {"type": "object"}}}
    operation = {"responses": {"200": {"content": content}}}
    stream = b'data: {"a": 1}\n\nevent: end\nid: 7\ndata: {}\n\n'
    assert list(CHECKER.problems(stream, operation, None)) == []
    assert list(CHECKER.problems(stream.replace(b"id: 7", b": x"), operation, None))
    assert list(CHECKER.problems(stream, OPERATIONS[NATIVE], None))
