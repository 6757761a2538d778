"""Hold requests against the API document and hand their parsed parts on. It knows nothing of endpoints.

Rules beyond the document: a body is read as JSON whatever its Content-Type; at the top level, ``null`` for an optional
nullable field means that it is not given, defaults are filled in, and fields the document does not know are left out
and named in the response header ``X-Llamafw-Ignored-Fields`` (or refused, with ``--strict-fields``).
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from itertools import chain
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamafw import spec
from llamafw.errors import RequestError, SpecError, did_you_mean
from llamafw.server.faults import find_fault, refusal
from llamafw.server.parameters import Parameters
from llamafw.server.routing import operation_of
from llamafw.server.schema import Schemas, fields_of

_MOST_DEPTH = 240  # of arrays and objects within each other


class Body:
    """The JSON body of one operation."""

    def __init__(self, operation: Mapping[str, Any], schemas: Schemas) -> None:
        body = schemas.raw(operation["requestBody"])
        content = body.get("content", {}).get("application/json")
        if content is None:
            raise SpecError(f"{operation['operationId']}: a request body must have application/json")
        self.required = bool(body.get("required"))
        self._schemas, self._plugin = schemas, operation.get(spec.PLUGIN)
        self._schema = schemas.convert(content["schema"])
        self._validator = schemas.validator(self._schema)
        self._fields = fields_of(content["schema"], schemas)
        self._plain = {name: value for name, value in self._fields.defaults.items() if not _is_container(value)}
        self._containers = {name: value for name, value in self._fields.defaults.items() if _is_container(value)}

    def parse(self, raw: bytes | bytearray) -> Any:
        """Return the parsed and validated body; RequestError if it is not valid. It still holds unknown fields."""
        if not raw:
            if self.required:
                raise RequestError("this operation needs a JSON body")
            return None
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise RequestError(f"the request body is not valid JSON: {error}") from None
        if is_deep(raw, body):
            raise RequestError(f"the request body has values within values, more than {_MOST_DEPTH} deep")
        if not self._validator.is_valid(body):
            fault = find_fault(self._schema, body, self._schemas)
            owner = self._fields.owners.get(str(fault.path[0])) if fault.path else None
            raise refusal(fault.message, fault.param, owner or self._plugin)
        return body

    def complete(self, body: Any) -> tuple[Any, list[str]]:
        """Return the body as an endpoint gets it, and the unknown fields that were left out."""
        if not isinstance(body, dict):
            return body, []
        fields = self._fields
        unknown = [] if fields.open else [name for name in body if name not in fields.known]
        absent = [name for name in fields.nullable if name in body and body[name] is None]
        filled = {**self._plain, **copy.deepcopy(self._containers), **body}
        for name in unknown:
            del filled[name]
        for name in absent:
            if name in fields.defaults:
                filled[name] = copy.deepcopy(fields.defaults[name])
            else:
                del filled[name]
        return filled, unknown

    def suggest(self, name: str) -> str:
        """Return "; did you mean …?" if a known field is near."""
        return did_you_mean(name, self._fields.known)


def is_deep(raw: bytes | bytearray, body: Any) -> bool:
    """Whether the body is nested deeper than those who read it can follow: jsonschema-rs ends at 255."""
    if raw.count(b"[") + raw.count(b"{") <= _MOST_DEPTH:
        return False
    level, depth = [body], 0
    while level and depth <= _MOST_DEPTH:
        parts = chain.from_iterable(
            part.values() if isinstance(part, dict) else part for part in level if _is_container(part)
        )
        level, depth = [part for part in parts if _is_container(part)], depth + 1
    return depth > _MOST_DEPTH


def _is_container(value: Any) -> bool:
    return isinstance(value, (list, dict))


class Checks:
    """Everything one operation checks of a request."""

    def __init__(self, operation: Mapping[str, Any], schemas: Schemas) -> None:
        self.path = Parameters(operation, "path", schemas)
        self.query = Parameters(operation, "query", schemas)
        self.body = Body(operation, schemas) if "requestBody" in operation else None


class ValidationMiddleware:
    """Between security and dispatch: sets ``body``, ``path`` and ``query`` in ``scope["extensions"]["llamafw"]``.

    So that the response can name them, ``ignored`` holds what was given and is not in the document, if anything.

    Not a subclass of connexion's, which reads the document's resolved copy and builds a validator per request.
    """

    def __init__(
        self, app: ASGIApp, *, document: Mapping[str, Any], schemas: Schemas, limit: int, timeout: float, strict: bool
    ) -> None:
        self.app, self.limit, self.timeout, self.strict = app, limit, timeout, strict
        self._checks = {
            operation["operationId"]: Checks(operation, schemas) for _, _, operation in spec.operations(document)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Validate, then pass the request on."""
        name = operation_of(scope)
        if name is None:
            await self.app(scope, receive, send)
            return
        checks = self._checks[name]
        call = scope["extensions"].setdefault("llamafw", {})
        call["path"] = checks.path.read_path(scope["path_params"])
        call["query"] = query = checks.query.read_query(scope["query_string"])
        call["body"] = None
        ignored = [name for name in query if name not in checks.query.names]
        if self.strict and ignored:
            raise RequestError(f"query parameter {ignored[0]!r} is not known", param=ignored[0])
        if checks.body is not None:
            read = await read_body(scope, receive, self.limit, self.timeout)
            body, unknown = checks.body.complete(checks.body.parse(read))
            if self.strict and unknown:
                raise RequestError(
                    f"{unknown[0]!r} is not a known field{checks.body.suggest(unknown[0])}", param=unknown[0]
                )
            call["body"] = body
            ignored += unknown
        if ignored:
            call["ignored"] = ignored
        await self.app(scope, receive, send)


async def read_body(scope: Scope, receive: Receive, limit: int, seconds: float) -> bytes | bytearray:
    """Return the whole request body; 413 as soon as it is known to be longer than ``limit`` bytes, 408 if its next part
    does not come within ``seconds``."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and (len(value) > 18 or int(value) > limit):
            raise _too_large(limit)
    message = await _next(receive, seconds)
    body: bytes | bytearray = message.get("body", b"")
    while message["type"] == "http.request" and message.get("more_body"):
        if len(body) > limit:
            raise _too_large(limit)
        message = await _next(receive, seconds)
        if not isinstance(body, bytearray):
            body = bytearray(body)
        body += message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    if len(body) > limit:
        raise _too_large(limit)
    return body


async def _next(receive: Receive, seconds: float) -> Message:
    try:
        async with asyncio.timeout(seconds):
            return await receive()
    except TimeoutError:
        raise HTTPException(408, f"no more of the request body has come within {seconds:g} s; see --timeout") from None


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the request body is larger than {limit} bytes; see --max-body-mb")
