"""What a stream of server-sent events keeps besides the schema of its events: its frame, its order, its end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema_rs import Draft4Validator

from llamafw import spec

DONE = "[DONE]"
EXPECTED = (501, 503, 504)  # "not with this server", "not now", "not in that time"; other 5xx are faults
SELECTED = {"$ref": "#/components/schemas/SelectedFields"}  # only answers to requests with `response_fields`
NATIVE = "#/components/schemas/CompletionEvent"
OPENAI = ("#/components/schemas/TextCompletionEvent", "#/components/schemas/ChatCompletionEvent")

Mapped = Mapping[str, Any]


class Streams:
    """Holds streams against an API document."""

    def __init__(self, document: Mapped) -> None:
        self.document = document
        self.validators: dict[tuple[str, bool], Draft4Validator] = {}

    def faults(self, content: bytes, operation: Mapped, body: Any) -> Iterator[str]:
        """Yield what is wrong with the stream that an operation has answered ``body`` with.

        Of operations that are not ours, plugins', only frame, events and errors are looked at.
        """
        *events, rest = content.decode("utf-8").split("\n\n")
        if rest:
            yield f"it ends within an event: {rest[:200]!r}"
        if odd := [event for event in events if not event.startswith("data: ") or "\n" in event]:
            yield f"an event is not one line of data: {odd[0][:200]!r}"
            return
        data = [event.removeprefix("data: ") for event in events]
        values = [json.loads(text) for text in data if text != DONE]
        if not values:
            yield "it says nothing"
            return
        schema = operation["responses"]["200"]["content"]["text/event-stream"].get(spec.EVENT, {})
        kind, failed = schema.get("$ref"), isinstance(values[-1], dict) and "error" in values[-1]
        ends = [i for i, text in enumerate(data) if text == DONE]
        if ends and (failed or kind == NATIVE or ends != [len(data) - 1]) or kind in OPENAI and not failed and not ends:
            yield "[DONE] is not where it belongs"
        asked = body if isinstance(body, dict) else {}
        validator = self.validator(schema, bool(asked.get("response_fields")))
        for value in values:
            if (error := next(validator.iter_errors(value), None)) is not None:
                yield f"an event is not as documented: {error.message[:500]}"
                return
        told = [value for value in values if not (isinstance(value, dict) and "error" in value)]
        if len(told) < len(values) - failed:
            yield "an error is not the last event"
        if failed and values[-1]["error"]["code"] >= 500 and values[-1]["error"]["code"] not in EXPECTED:
            yield f"the server has failed: {values[-1]['error']['message']}"
        if kind == NATIVE:
            yield from order_of_answers(told, asked, failed)
        elif kind in OPENAI:
            yield from order_of_choices(told, asked, failed)

    def validator(self, schema: Mapped, selected: bool) -> Draft4Validator:
        """Return the validator of events; ``selected``: the request says which fields it wants."""
        key = json.dumps(schema, sort_keys=True), selected
        if key not in self.validators:
            schemas = spec.as_json_schema(self.document["components"]["schemas"])
            native = schemas.get("CompletionEvent", {})
            if SELECTED in native.get("anyOf", ()) and not selected:
                schemas["CompletionEvent"] = {"anyOf": [one for one in native["anyOf"] if one != SELECTED]}
            root = {"allOf": [spec.as_json_schema(schema)], "components": {"schemas": schemas}}
            self.validators[key] = Draft4Validator(root)
        return self.validators[key]


def order_of_answers(events: list[Any], asked: Mapped, failed: bool) -> Iterator[str]:
    """Yield what is wrong with the order of native events: pieces of each answer, then the whole of it."""
    if asked.get("response_fields"):
        return  # which need not name what tells the answers apart
    begun: set[int] = set()
    ended: set[int] = set()
    for event in events:
        if event["index"] in ended:
            yield f"answer {event['index']} goes on after its end"
        (ended if event["stop"] else begun).add(event["index"])
    if not failed and ended != begun | set(range(len(ended))):
        yield f"the answers {sorted(begun)} have begun, and {sorted(ended)} have ended"


def order_of_choices(events: list[Any], asked: Mapped, failed: bool) -> Iterator[str]:
    """Yield what is wrong with the order of OpenAI's chunks: those of each choice, its end, and the usage at last."""
    begun: set[int] = set()
    ended: set[int] = set()
    for event in events:
        for choice in event["choices"]:
            if choice["index"] in ended:
                yield f"choice {choice['index']} goes on after its end"
            begun.add(choice["index"])
            if choice["finish_reason"] is not None:
                ended.add(choice["index"])
    if not failed and ended != begun | set(range(len(ended))):
        yield f"the choices {sorted(begun)} have begun, and {sorted(ended)} have ended"
    if len({(event["id"], event["created"], event["model"]) for event in events}) > 1:
        yield "the head of its chunks changes"
    wanted = bool((asked.get("stream_options") or {}).get("include_usage"))
    usages = [bool(event.get("usage")) for event in events]
    if not failed and usages != [False] * (len(events) - wanted) + [True] * wanted:
        yield "the usage is not where it belongs"
