"""Validate responses and stream events against the API document (``--validate-responses``, for tests)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamafw import spec
from llamafw.server.errors import PLUGIN_ERROR, FormatError, error_type
from llamafw.server.request_id import request_id
from llamafw.server.responses import JSONResponse, to_json
from llamafw.server.routing import operation_id_of
from llamafw.server.schema import Schema, Schemas
from llamafw.server.sse import event_data, is_comment
from llamafw.server.violations import find_violation
from llamafw.types import Problem

log = logging.getLogger("llamafw.server")


STREAMS = (EVENTS, LINES) = "text/event-stream", "application/x-ndjson"
"""Media types of responses whose parts are checked one by one, as they are sent."""


class ResponseContract:
    """The responses of one operation, as the document defines them."""

    def __init__(self, operation: Mapping[str, Any], schemas: Schemas) -> None:
        self.operation_id = operation["operationId"]
        self._schemas = schemas
        self._responses: dict[str, dict[str, Schema | None]] = {}  # status → media type → schema
        for status, response in operation["responses"].items():
            content = schemas.raw(response).get("content", {})
            self._responses[status.upper()] = {
                media_type.partition(";")[0]: self._schema_of(media_type, part) for media_type, part in content.items()
            }

    def _schema_of(self, media_type: str, part: Mapping[str, Any]) -> Schema | None:
        """Return the schema of a body or, for a stream, of one event or line."""
        if media_type.startswith(STREAMS):
            event = part.get(spec.EVENT) or part.get("schema", {}).get(spec.EVENT)
            return None if event is None else self._schemas.convert(event)
        return self._schemas.convert(part["schema"]) if "schema" in part else None

    def check_start(self, status: int, media_type: str) -> tuple[str | None, Schema | None]:
        """Return what is wrong with a status or a media type, or None, and the schema of the body or of an event."""
        text = str(status)
        keys = (text, f"{text[0]}XX", "DEFAULT")
        content = next((self._responses[key] for key in keys if key in self._responses), None)
        if content is None:
            return f"the status {status} is not documented", None
        if media_type and media_type not in content:
            return f"the media type {media_type} is not documented for {status}", None
        return None, content.get(media_type)

    def check_value(self, schema: Schema | None, value: Any) -> str | None:
        """Return what is wrong with a body or an event, or None."""
        if schema is None or self._schemas.validator(schema).is_valid(value):
            return None
        violation = find_violation(schema, value, self._schemas)
        return f"{violation.param or 'it'} {violation.text}"


class ResponseContractMiddleware:
    """Replaces a response that breaks the API document with a 500, and ends such a stream with an error event.

    Parameters
    ----------
    app : ASGI application
        The application whose responses are checked.
    document : mapping
        The API document.
    schemas : Schemas
        Its schemas.
    blame : callable
        Called with the operationId of a wrong response; returns the name of the plugin that is responsible, as clients
        see it, or None if the plugin is built in.
    format_error : callable
        Returns the status and the body of the response for a request and its error.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        document: Mapping[str, Any],
        schemas: Schemas,
        blame: Callable[[str], str | None],
        format_error: FormatError,
    ) -> None:
        self.app, self._blame, self._format_error = app, blame, format_error
        self._contracts = {
            operation["operationId"]: ResponseContract(operation, schemas)
            for _, _, operation in spec.operations(document)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and check the response."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope.setdefault("extensions", {})  # routing copies the scope, but shares this dict with us
        check = _ResponseCheck(scope, receive, send, self._contracts, self._blame, self._format_error)
        await self.app(scope, receive, check.send)


class _ResponseCheck:
    """The check of one response."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        contracts: Mapping[str, ResponseContract],
        blame: Callable[[str], str | None],
        format_error: FormatError,
    ) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._contracts, self._blame, self._format_error = contracts, blame, format_error
        self._contract: ResponseContract | None = None
        self._schema: Schema | None = None
        self._media_type = ""
        self._held_start: Message | None = None  # the start of a JSON response, until its body has been checked
        self._body = bytearray()
        self._is_replaced = False

    async def send(self, message: Message) -> None:
        if self._is_replaced:
            return
        if message["type"] == "http.response.start":
            await self._send_start(message)
        elif self._held_start is not None:
            await self._send_json(message)
        elif self._media_type in STREAMS:
            await self._send_events(message)
        else:
            await self._send(message)

    async def _send_start(self, message: Message) -> None:
        self._contract = self._contracts.get(operation_id_of(self._scope) or "")
        if self._contract is None:
            await self._send(message)
            return

        types = [value for name, value in message.get("headers", ()) if name.lower() == b"content-type"]
        self._media_type = types[0].decode("latin-1").partition(";")[0].strip() if types else ""
        violation, self._schema = self._contract.check_start(message["status"], self._media_type)
        if violation:
            await self._replace(violation)
        elif self._media_type == "application/json":
            self._held_start = message
        else:
            await self._send(message)

    async def _send_json(self, message: Message) -> None:
        assert self._contract is not None  # set by _send_start
        assert self._held_start is not None  # set by _send_start
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return

        violation = self._contract.check_value(self._schema, orjson.loads(self._body))
        if violation:
            await self._replace(violation)
        else:
            await self._send(self._held_start)
            await self._send({"type": "http.response.body", "body": bytes(self._body)})

    async def _send_events(self, message: Message) -> None:
        assert self._contract  # set by _send_start
        self._body += message.get("body", b"")
        are_lines = self._media_type == LINES
        *events, rest = bytes(self._body).split(b"\n" if are_lines else b"\n\n")
        self._body = bytearray(rest)

        for event in events:
            is_free = event == b"data: [DONE]" or is_comment(event)
            violation = None if is_free else self._check_event(event)
            if violation:
                problem = self._problem(f"{'a line' if are_lines else 'an event'} is wrong: {violation}")
                data = to_json(self._format_error(self._scope, problem)[1])
                body = data + b"\n" if are_lines else b"data: " + data + b"\n\n"
                await self._send({"type": "http.response.body", "body": body, "more_body": False})
                self._is_replaced = True
                return
        await self._send(message)

    def _check_event(self, event: bytes) -> str | None:
        assert self._contract  # set by _send_start
        data = event if self._media_type == LINES else event_data(event)
        if data is None:
            return "it does not have exactly one line of data"
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            return str(error)
        return self._contract.check_value(self._schema, value)

    async def _replace(self, violation: str) -> None:
        self._is_replaced = True
        status, body = self._format_error(self._scope, self._problem(violation))
        await JSONResponse(body, status_code=status)(self._scope, self._receive, self._send)

    def _problem(self, violation: str) -> Problem:
        assert self._contract  # set by _send_start
        operation_id = self._contract.operation_id
        plugin = self._blame(operation_id)
        source = f"{operation_id}, of plugin {plugin}," if plugin else operation_id
        log.error("request %s: the response of %s breaks the API document: %s", request_id(), source, violation)

        problem = Problem(500, f"the response breaks the API document: {violation}", error_type(500))
        return replace(problem, type=PLUGIN_ERROR, extra={"plugin": plugin}) if plugin else problem
