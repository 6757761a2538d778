"""Check the streams of the Responses API with the types of the ``openai`` package, and read them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ENDS = ("response.completed", "response.incomplete", "response.failed")


def read_named_events(text: str) -> list[dict[str, Any]]:
    """Return the events of a stream; each must be named after its type."""
    events = []
    for block in filter(None, text.split("\n\n")):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def check_events(events: Iterable[Mapping[str, Any]], *, first: int = 0) -> dict[str, Any]:
    """Fail unless a stream is valid; return its final response.

    Every event must be valid for the SDK, the numbers must have no gaps, the deltas of an item must add up to its text,
    and the final response must consist of the finished items.
    """
    events = list(events)
    assert [event["sequence_number"] for event in events] == list(range(first, first + len(events)))
    for event in events:
        EVENTS.validate_python(event, strict=False)
    assert [event["type"] in ENDS for event in events] == [False] * (len(events) - 1) + [True]

    items: dict[int, dict[str, Any]] = {}
    open_item: tuple[int, str] | None = None
    for event in events:
        if event["type"] == "response.output_item.added":
            assert open_item is None, "an item begins before the one before it has ended"
            assert event["output_index"] == len(items)
            assert event["item"]["status"] == "in_progress"
            open_item = event["output_index"], event["item"]["id"]
            items[event["output_index"]] = {"text": ""}
        elif event["type"] == "response.output_item.done":
            assert open_item == (event["output_index"], event["item"]["id"])
            assert items[event["output_index"]]["text"] == text_of(event["item"])
            items[event["output_index"]]["item"] = event["item"]
            open_item = None
        elif "item_id" in event:
            assert open_item == (event["output_index"], event["item_id"])
            items[event["output_index"]]["text"] += event.get("delta", "")
            if event["type"].endswith(("text.done", "arguments.done")):
                assert event.get("text", event.get("arguments")) == items[event["output_index"]]["text"]

    final: dict[str, Any] = events[-1]["response"]
    Response.model_validate(final)
    if first == 0:
        assert final["output"] == [items[i]["item"] for i in sorted(items)]
    return final


def text_of(item: Mapping[str, Any]) -> str:
    """Return the text of an item of the output."""
    if item["type"] == "function_call":
        return str(item["arguments"])
    parts = item.get("content") or item.get("summary") or []
    return "".join(part["text"] for part in parts)
