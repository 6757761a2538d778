"""Hold responses and stream events against the API document (``--validate-responses``, for tests)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamafw import spec
from llamafw.server.access import request_id
from llamafw.server.errors import PLUGIN_ERROR, envelope, error_type
from llamafw.server.faults import find_fault
from llamafw.server.responses import JSONResponse, to_json
from llamafw.server.routing import operation_of
from llamafw.server.schema import Schema, Schemas
from llamafw.types import Problem

log = logging.getLogger("llamafw.server")


class Promise:
    """What the document says an operation answers."""

    def __init__(self, operation: Mapping[str, Any], schemas: Schemas) -> None:
        self.name = operation["operationId"]
        self._schemas = schemas
        self._responses: dict[str, dict[str, Schema | None]] = {}
        for status, response in operation["responses"].items():
            content = schemas.raw(response).get("content", {})
            self._responses[status.upper()] = {
                media.partition(";")[0]: self._schema(media, part) for media, part in content.items()
            }

    def _schema(self, media: str, part: Mapping[str, Any]) -> Schema | None:
        if media.startswith("text/event-stream"):
            event = part.get(spec.EVENT) or part.get("schema", {}).get(spec.EVENT)
            return None if event is None else self._schemas.convert(event)
        return self._schemas.convert(part["schema"]) if "schema" in part else None

    def schema(self, status: int, media: str) -> tuple[str | None, Schema | None]:
        """Return what is wrong with the head of a response, and the schema of its body or events."""
        text = str(status)
        keys = (text, f"{text[0]}XX", "DEFAULT")
        content = next((self._responses[key] for key in keys if key in self._responses), None)
        if content is None:
            return f"the status {status} is not documented", None
        if media and media not in content:
            return f"the media type {media} is not documented for {status}", None
        return None, content.get(media)

    def fault(self, schema: Schema | None, value: Any) -> str | None:
        """Return what is wrong with a body or an event, if anything is."""
        if schema is None or self._schemas.validator(schema).is_valid(value):
            return None
        found = find_fault(schema, value, self._schemas)
        return f"{found.param or 'it'} {found.text}"


class ResponseChecks:
    """Replaces a response that breaks the document's promise by a 500, and ends such a stream with an error.

    Parameters
    ----------
    blame : callable
        Takes note that the answer of an operation was wrong; returns what clients call the plugin at fault, if it is
        one that is not our own.
    """

    def __init__(
        self, app: ASGIApp, *, document: Mapping[str, Any], schemas: Schemas, blame: Callable[[str], str | None]
    ) -> None:
        self.app, self._blame = app, blame
        self._promises = {
            operation["operationId"]: Promise(operation, schemas) for _, _, operation in spec.operations(document)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and check what comes back."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope.setdefault("extensions", {})  # so that routing, which copies the scope, writes into ours
        check = _Check(scope, receive, send, self._promises, self._blame)
        await self.app(scope, receive, check.send)


class _Check:
    """The check of one response."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        promises: Mapping[str, Promise],
        blame: Callable[[str], str | None],
    ) -> None:
        self._scope, self._receive, self._send, self._promises = scope, receive, send, promises
        self._blame = blame
        self._promise: Promise | None = None
        self._schema: Schema | None = None
        self._media = ""
        self._held: Message | None = None  # the head of a JSON response, until its body has been checked
        self._body = bytearray()
        self._broken = False

    async def send(self, message: Message) -> None:
        if self._broken:
            return
        if message["type"] == "http.response.start":
            await self._start(message)
        elif self._held is not None:
            await self._collect(message)
        elif self._media == "text/event-stream":
            await self._event(message)
        else:
            await self._send(message)

    async def _start(self, message: Message) -> None:
        self._promise = self._promises.get(operation_of(self._scope) or "")
        if self._promise is None:
            await self._send(message)
            return
        heads = [value for key, value in message.get("headers", ()) if key.lower() == b"content-type"]
        self._media = heads[0].decode("latin-1").partition(";")[0].strip() if heads else ""
        fault, self._schema = self._promise.schema(message["status"], self._media)
        if fault:
            await self._refuse(fault)
        elif self._media == "application/json":
            self._held = message
        else:
            await self._send(message)

    async def _collect(self, message: Message) -> None:
        assert self._promise is not None  # set by _start, as is the next
        assert self._held is not None
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        fault = self._promise.fault(self._schema, orjson.loads(self._body))
        if fault:
            await self._refuse(fault)
        else:
            await self._send(self._held)
            await self._send({"type": "http.response.body", "body": bytes(self._body)})

    async def _event(self, message: Message) -> None:
        assert self._promise  # set by _start
        self._body += message.get("body", b"")
        *events, rest = bytes(self._body).split(b"\n\n")
        self._body = bytearray(rest)
        for event in events:
            fault = None if event == b"data: [DONE]" else self._event_fault(event)
            if fault:
                problem = self._problem(f"an event is wrong: {fault}")
                body = b"data: " + to_json(envelope(problem)) + b"\n\n"
                await self._send({"type": "http.response.body", "body": body, "more_body": False})
                self._broken = True
                return
        await self._send(message)

    def _event_fault(self, event: bytes) -> str | None:
        assert self._promise  # set by _start
        if not event.startswith(b"data: "):
            return "it has no data"
        try:
            value = orjson.loads(event.removeprefix(b"data: "))
        except orjson.JSONDecodeError as error:
            return str(error)
        return self._promise.fault(self._schema, value)

    async def _refuse(self, fault: str) -> None:
        self._broken = True
        await JSONResponse(envelope(self._problem(fault)), status_code=500)(self._scope, self._receive, self._send)

    def _problem(self, fault: str) -> Problem:
        assert self._promise  # set by _start
        plugin = self._blame(self._promise.name)
        whose = f"{self._promise.name}, of plugin {plugin}," if plugin else self._promise.name
        log.error("request %s: the response of %s breaks the API document: %s", request_id(), whose, fault)
        problem = Problem(500, f"the response breaks the API document: {fault}", error_type(500))
        return replace(problem, type=PLUGIN_ERROR, extra={"plugin": plugin}) if plugin else problem
