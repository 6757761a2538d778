"""Check streams of events or lines: their format, the schema of each item, the order of the items, and the end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema_rs import Draft4Validator

from llamafw import spec

DONE = "[DONE]"
# "not with this server", "not now" and "not in time"; other 5xx statuses are defects
NOT_A_DEFECT = (501, 503, 504)
SELECTED = {"$ref": "#/components/schemas/SelectedFields"}  # schema of events if the request has `response_fields`
EVENTS, LINES = "text/event-stream", "application/x-ndjson"
FAILURES = ("server_error", "api_error", "plugin_error")  # types of errors without a code that are defects
NATIVE = "#/components/schemas/CompletionEvent"
OPENAI = ("#/components/schemas/TextCompletionEvent", "#/components/schemas/ChatCompletionEvent")
RESPONSES = "#/components/schemas/ResponseEvent"
RESPONSE_ENDS = ("response.completed", "response.incomplete", "response.failed")

Object = Mapping[str, Any]


class StreamChecker:
    """Checks streams against an API document."""

    def __init__(self, document: Object) -> None:
        self.document = document
        self._validators: dict[tuple[str, bool], Draft4Validator] = {}

    def problems(self, content: bytes, operation: Object, body: Any, media_type: str = EVENTS) -> Iterator[str]:
        """Yield the problems of a stream.

        The order of the events, and ``[DONE]``, are checked for the built-in operations only.

        Parameters
        ----------
        content : bytes
            The whole response.
        operation : mapping
            The operation object of the API document.
        body : object
            The body of the request.
        media_type : str
            Of events or of lines of JSON.
        """
        are_lines = media_type == LINES
        *events, rest = content.decode("utf-8").split("\n" if are_lines else "\n\n")
        if rest:
            yield f"the stream ends within an event: {rest[:200]!r}"
        events = [event for event in events if not event.startswith(":")]  # comments, which are sent while it waits
        schema = operation["responses"]["200"]["content"][media_type].get(spec.EVENT, {})
        is_builtin = schema.get("$ref") in (NATIVE, *OPENAI)
        data: list[str | None] = (
            [*events] if are_lines else [parse_event(event, may_have_name=not is_builtin) for event in events]
        )
        if None in data:
            yield f"an event does not consist of one line of data: {events[data.index(None)][:200]!r}"
            return
        values = [json.loads(text) for text in data if text is not None and text != DONE]
        if not values:
            yield "the stream has no events"
            return

        request = body if isinstance(body, dict) else {}
        validator = self._validator(schema, bool(request.get("response_fields")))
        for value in values:
            if (error := next(validator.iter_errors(value), None)) is not None:
                yield f"an event does not match its schema: {error.message[:500]}"
                return
        yield from self._problems_of_the_order(schema.get("$ref"), data, values, request)

    def _problems_of_the_order(self, kind: str | None, data: list[Any], values: list[Any], request: Object) -> Any:
        has_failed = _is_error(values[-1])
        done_at = [i for i, text in enumerate(data) if text == DONE]
        is_done_allowed = not has_failed and kind != NATIVE
        if (done_at and (not is_done_allowed or done_at != [len(data) - 1])) or (
            kind in OPENAI and not has_failed and not done_at
        ):
            yield "[DONE] is missing or misplaced"

        results = [value for value in values if not _is_error(value)]
        if len(results) < len(values) - has_failed:
            yield "an error is not the last event"
        if has_failed:
            error = values[-1]["error"]
            if is_failure(error):
                yield f"the server has failed: {error}"

        if kind == NATIVE:
            yield from problems_of_completions(results, request, has_failed)
        elif kind in OPENAI:
            yield from problems_of_choices(results, request, has_failed)
        elif kind == RESPONSES:
            yield from problems_of_a_response(results)

    def _validator(self, schema: Object, are_fields_selected: bool) -> Draft4Validator:
        """Return the validator of events; ``are_fields_selected``: the request has ``response_fields``."""
        key = json.dumps(schema, sort_keys=True), are_fields_selected
        if key not in self._validators:
            components = self.document["components"]["schemas"]
            schemas = {name: spec.as_json_schema(schema) for name, schema in components.items()}
            native = schemas.get("CompletionEvent", {})
            if SELECTED in native.get("anyOf", ()) and not are_fields_selected:
                schemas["CompletionEvent"] = {"anyOf": [choice for choice in native["anyOf"] if choice != SELECTED]}
            root = {"allOf": [spec.as_json_schema(schema)], "components": {"schemas": schemas}}
            self._validators[key] = Draft4Validator(root)
        return self._validators[key]


def parse_event(event: str, *, may_have_name: bool) -> str | None:
    """Return the data of an event; None unless it is one line of data, and perhaps a name and an id."""
    lines = event.split("\n")
    if may_have_name:
        lines = [line for line in lines if not line.startswith(("event: ", "id: "))]
    return lines[0].removeprefix("data: ") if len(lines) == 1 and lines[0].startswith("data: ") else None


def problems_of_completions(events: list[Any], request: Object, has_failed: bool) -> Iterator[str]:
    """Yield problems in the order of native events: the pieces of each completion, then its final event."""
    if request.get("response_fields"):
        return  # the selected fields need not include the index
    begun: set[int] = set()
    ended: set[int] = set()
    for event in events:
        if event["index"] in ended:
            yield f"completion {event['index']} continues after its final event"
        (ended if event["stop"] else begun).add(event["index"])
    if not has_failed and ended != begun | set(range(len(ended))):
        yield f"the completions {sorted(begun)} have begun, but {sorted(ended)} have ended"


def problems_of_choices(events: list[Any], request: Object, has_failed: bool) -> Iterator[str]:
    """Yield problems in the order of OpenAI's chunks: the pieces of each choice, its end, then the usage."""
    begun: set[int] = set()
    ended: set[int] = set()
    for event in events:
        for choice in event["choices"]:
            if choice["index"] in ended:
                yield f"choice {choice['index']} continues after its finish_reason"
            begun.add(choice["index"])
            if choice["finish_reason"] is not None:
                ended.add(choice["index"])
    if not has_failed and ended != begun | set(range(len(ended))):
        yield f"the choices {sorted(begun)} have begun, but {sorted(ended)} have ended"

    if len({(event["id"], event["created"], event["model"]) for event in events}) > 1:
        yield "id, created or model differ between chunks"
    is_usage_expected = bool((request.get("stream_options") or {}).get("include_usage"))
    usages = [bool(event.get("usage")) for event in events]
    expected = [False] * (len(events) - is_usage_expected) + [True] * is_usage_expected
    if not has_failed and usages != expected:
        yield "the usage is missing or misplaced"


def is_failure(error: Any) -> bool:
    """Return whether an error in a stream is a defect of the server.

    The formats of some APIs have no code, or only a message.
    """
    if not isinstance(error, dict):
        return bool(error == "internal server error")
    if "code" in error:
        return bool(error["code"] >= 500 and error["code"] not in NOT_A_DEFECT)
    return error.get("type") in FAILURES


def problems_of_a_response(events: list[Any]) -> Iterator[str]:
    """Yield problems in the order of the Responses API's events: numbers without gaps, and one end."""
    numbers = [event["sequence_number"] for event in events]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        yield f"the sequence numbers have gaps: {numbers[:20]}"
    ends = [event["type"] in RESPONSE_ENDS for event in events]
    if ends != [False] * (len(ends) - 1) + [True]:
        yield "the end of the response is missing or misplaced"


def _is_error(value: Any) -> bool:
    return isinstance(value, dict) and "error" in value
