"""The check of streams finds what is wrong with them. Schemathesis applies it to real ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llamafw.spec import load_document, operations
from llamafw.testing.contract.streams import Streams

DOCUMENT = load_document()
OPERATIONS = {operation["operationId"]: operation for _, _, operation in operations(DOCUMENT)}
STREAMS = Streams(DOCUMENT)
DONE = "[DONE]"


def piece(index: int = 0, **more: Any) -> dict[str, Any]:
    return {"content": "a", "stop": False, "id_slot": 0, "index": index, "multimodal": False, **more}


def timings() -> dict[str, Any]:
    names = ("prompt", "predicted")
    counts = {f"{name}_{what}": 1 for name in names for what in ("n", "ms", "per_token_ms", "per_second")}
    return {**counts, "cache_n": 0, "queue_ms": 0.5}


def whole(index: int = 0) -> dict[str, Any]:
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
LAST = {**chunk(), "choices": [], "usage": USAGE}


def faults(name: str, events: list[Any], body: Any = None, end: str = "") -> list[str]:
    text = "".join(f"data: {event if event == DONE else json.dumps(event)}\n\n" for event in events) + end
    return list(STREAMS.faults(text.encode(), OPERATIONS[name], body))


NATIVE, OPENAI = "createCompletion", "createTextCompletion"


@pytest.mark.parametrize(
    ("name", "events", "body"),
    [
        (NATIVE, [piece(), piece(), whole()], None),
        (NATIVE, [piece(0), piece(1), whole(1), piece(0), whole(0)], {}),
        (NATIVE, [whole()], {}),
        (NATIVE, [piece(), error(503)], {}),
        (NATIVE, [piece(), {"content": "a"}], {"response_fields": ["content"]}),
        (OPENAI, [chunk(), chunk(reason="stop"), DONE], {}),
        (OPENAI, [chunk(0), chunk(1), chunk(1, "stop"), chunk(0, "length"), LAST, DONE], WITH_USAGE),
        (OPENAI, [chunk(), error()], WITH_USAGE),
    ],
)
def test_streams_as_they_should_be(name: str, events: list[Any], body: Any) -> None:
    assert faults(name, events, body) == []


@pytest.mark.parametrize(
    ("name", "events", "body", "fault"),
    [
        (NATIVE, [], {}, "it says nothing"),
        (NATIVE, [piece()], {}, "have begun, and [] have ended"),
        (NATIVE, [piece(), whole(), piece()], {}, "goes on after its end"),
        (NATIVE, [piece(), whole(), DONE], {}, "[DONE] is not where it belongs"),
        (NATIVE, [piece(1), whole(1)], {}, "have ended"),
        (NATIVE, [piece(), {"content": "a"}], {}, "not as documented"),
        (NATIVE, [piece(content=5), whole()], {}, "not as documented"),
        (NATIVE, [error(), whole()], {}, "an error is not the last event"),
        (NATIVE, [piece(), error(500)], {}, "the server has failed"),
        (OPENAI, [chunk(reason="stop")], {}, "[DONE] is not where it belongs"),
        (OPENAI, [chunk(), error(), DONE], {}, "[DONE] is not where it belongs"),
        (OPENAI, [DONE, chunk(reason="stop")], {}, "[DONE] is not where it belongs"),
        (OPENAI, [chunk(), DONE], {}, "have begun, and [] have ended"),
        (OPENAI, [chunk(reason="stop"), chunk(), DONE], {}, "goes on after its end"),
        (OPENAI, [chunk(reason="stop"), DONE], WITH_USAGE, "the usage is not where it belongs"),
        (OPENAI, [chunk(reason="stop"), LAST, DONE], {}, "the usage is not where it belongs"),
        (OPENAI, [chunk(), chunk(reason="stop", id="j"), DONE], {}, "the head of its chunks changes"),
        (OPENAI, [chunk(reason="odd"), DONE], {}, "not as documented"),
        (OPENAI, [piece(), DONE], {}, "not as documented"),
    ],
)
def test_streams_as_they_should_not_be(name: str, events: list[Any], body: Any, fault: str) -> None:
    assert any(fault in found for found in faults(name, events, body)), faults(name, events, body)


@pytest.mark.parametrize(
    "end", ["data: {}", "\n\n", "event: x\ndata: {}\n\n", "data: {}\ndata: {}\n\n", ": comment\n\n"]
)
def test_a_frame_that_is_broken(end: str) -> None:
    assert faults(NATIVE, [whole()], {}, end)
