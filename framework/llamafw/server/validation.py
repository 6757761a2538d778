"""Validate requests against the API document and pass on their parsed parts.

Rules that the document cannot express:

* A body is read as JSON whatever its Content-Type, and may be compressed.
* An integral float counts as an integer where an integer is expected.
* At the top level of a body, ``null`` for an optional nullable field means "not given", and defaults are filled in.
* Top-level fields that the document does not know are removed and named in the response header
  ``X-Llamafw-Ignored-Fields``; with ``--strict-fields`` they are errors.
"""

from __future__ import annotations

import asyncio
import copy
import re
from collections.abc import Mapping
from functools import cached_property
from itertools import chain
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamafw import spec
from llamafw.errors import RequestError, SpecError, did_you_mean
from llamafw.server.content_coding import content_coding, decompress, why_not_utf8
from llamafw.server.integers import IntegerReader
from llamafw.server.parameters import ParameterReader
from llamafw.server.routing import operation_id_of
from llamafw.server.schema import Fields, Schemas, fields_of
from llamafw.server.violations import find_violation, violation_error

_SURROGATE = re.compile(rb"\\u[dD][89abAB]|\\u[dD][c-fC-F]")
_ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<lone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.",
    re.DOTALL,
)
_REPLACEMENT = b"\\ufffd"
_MAX_DEPTH = 240  # of arrays and objects within each other; jsonschema-rs fails beyond 255


class Body:
    """The JSON body of one operation.

    Its fields are looked up when they are first needed: the model's file may change their defaults.
    """

    def __init__(self, operation: Mapping[str, Any], schemas: Schemas) -> None:
        body = schemas.raw(operation["requestBody"])
        content = body.get("content", {}).get("application/json")
        if content is None:
            raise SpecError(f"{operation['operationId']}: a request body must have application/json")

        self.required = bool(body.get("required"))
        self._schemas, self._plugin = schemas, operation.get(spec.PLUGIN)
        self._raw_schema, self._schema = content["schema"], schemas.convert(content["schema"])
        self._validator = schemas.validator(self._schema)
        self._integers = IntegerReader(self._schema, schemas)

    @cached_property
    def _fields(self) -> Fields:
        return fields_of(self._raw_schema, self._schemas)

    @cached_property
    def _scalar_defaults(self) -> dict[str, Any]:
        return {name: value for name, value in self._fields.defaults.items() if not _is_container(value)}

    @cached_property
    def _container_defaults(self) -> dict[str, Any]:
        return {name: value for name, value in self._fields.defaults.items() if _is_container(value)}

    def parse(self, raw: bytes | bytearray) -> Any:
        """Return the parsed and validated body, unknown fields included.

        Raises
        ------
        RequestError
            The body is missing, is not JSON, is nested too deeply, or breaks the document's schema.
        """
        if not raw:
            if self.required:
                raise RequestError("this operation needs a JSON body")
            return None

        try:
            body = read_json(raw)
        except orjson.JSONDecodeError as error:
            raise RequestError(f"the request body is not valid JSON: {why_not_utf8(raw) or error}") from None
        if is_too_deep(raw, body):
            raise RequestError(f"the request body has arrays and objects nested more than {_MAX_DEPTH} deep")

        if not self._validator.is_valid(body):
            body = self._integers.read(body)  # only now, because most bodies are valid without it
            if not self._validator.is_valid(body):
                violation = find_violation(self._schema, body, self._schemas)
                owner = self._fields.owners.get(str(violation.path[0])) if violation.path else None
                raise violation_error(violation.message, violation.param, owner or self._plugin)
        return body

    def complete(self, body: Any) -> tuple[Any, list[str]]:
        """Return the body as the endpoint gets it, and the names of the unknown fields that were removed."""
        if not isinstance(body, dict):
            return body, []

        fields = self._fields
        unknown = [] if fields.allows_others else [name for name in body if name not in fields.known]
        not_given = [name for name in fields.nullable if name in body and body[name] is None]
        completed = {**self._scalar_defaults, **copy.deepcopy(self._container_defaults), **body}
        for name in unknown:
            del completed[name]
        for name in not_given:
            if name in fields.defaults:
                completed[name] = copy.deepcopy(fields.defaults[name])
            else:
                del completed[name]
        return completed, unknown

    def suggest(self, name: str) -> str:
        """Return "; did you mean …?" if a known field has a similar name."""
        return did_you_mean(name, self._fields.known)


def read_json(raw: bytes | bytearray) -> Any:
    """Return JSON data; lone surrogates, which JavaScript's strings may have, become U+FFFD.

    Raises
    ------
    orjson.JSONDecodeError
        ``raw`` is not JSON.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        if not _SURROGATE.search(raw):
            raise
    return orjson.loads(_ESCAPE.sub(_without_lone_surrogate, raw))


def _without_lone_surrogate(escape: re.Match[bytes]) -> bytes:
    return _REPLACEMENT if escape["lone"] else escape[0]


def is_too_deep(raw: bytes | bytearray, body: Any) -> bool:
    """Whether a body is nested more than `_MAX_DEPTH` deep."""
    if raw.count(b"[") + raw.count(b"{") <= _MAX_DEPTH:
        return False

    level, depth = [body], 0
    while level and depth <= _MAX_DEPTH:
        parts = chain.from_iterable(
            part.values() if isinstance(part, dict) else part for part in level if _is_container(part)
        )
        level, depth = [part for part in parts if _is_container(part)], depth + 1
    return depth > _MAX_DEPTH


def _is_container(value: Any) -> bool:
    return isinstance(value, (list, dict))


class RequestContract:
    """The parameters and the body of one operation, as the document defines them."""

    def __init__(self, operation: Mapping[str, Any], schemas: Schemas) -> None:
        self.path = ParameterReader(operation, "path", schemas)
        self.query = ParameterReader(operation, "query", schemas)
        self.body = Body(operation, schemas) if "requestBody" in operation else None


class ValidationMiddleware:
    """Sets ``body``, ``path`` and ``query`` in ``scope["extensions"]["llamafw"]`` to the validated parts of a request.

    ``ignored`` is set to the names of unknown fields and query parameters, if there are any, for the response header.

    It replaces connexion's validation, which compiles a validator for each request.

    Parameters
    ----------
    app : ASGI application
        The application that gets the validated requests.
    document : mapping
        The API document.
    schemas : Schemas
        Its schemas.
    limit : int
        Maximum size of a body in bytes.
    timeout : float
        Seconds to wait for each part of a body.
    strict : bool
        Whether unknown fields are errors.
    """

    def __init__(
        self, app: ASGIApp, *, document: Mapping[str, Any], schemas: Schemas, limit: int, timeout: float, strict: bool
    ) -> None:
        self.app, self.limit, self.timeout, self.strict = app, limit, timeout, strict
        self._contracts = {
            operation["operationId"]: RequestContract(operation, schemas)
            for _, _, operation in spec.operations(document)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Validate the request, then pass it on."""
        operation_id = operation_id_of(scope)
        if operation_id is None:
            await self.app(scope, receive, send)
            return

        contract = self._contracts[operation_id]
        call = scope["extensions"].setdefault("llamafw", {})
        call["path"] = contract.path.read_path(scope["path_params"])
        call["query"] = query = contract.query.read_query(scope["query_string"])
        ignored = [name for name in query if name not in contract.query.names]
        if self.strict and ignored:
            raise RequestError(f"query parameter {ignored[0]!r} is not known", param=ignored[0])

        call["body"] = None
        if contract.body is not None:
            raw = await read_body(scope, receive, self.limit, self.timeout)
            call["body"], unknown = contract.body.complete(contract.body.parse(raw))
            if self.strict and unknown:
                hint = contract.body.suggest(unknown[0])
                raise RequestError(f"{unknown[0]!r} is not a known field{hint}", param=unknown[0])
            ignored += unknown

        if ignored:
            call["ignored"] = ignored
        await self.app(scope, receive, send)


async def read_body(scope: Scope, receive: Receive, limit: int, seconds: float) -> bytes | bytearray:
    """Return the whole request body, decompressed.

    Parameters
    ----------
    limit : int
        Maximum size in bytes, before and after decompression.
    seconds : float
        Maximum time to wait for the next part of the body.

    Raises
    ------
    HTTPException
        413 as soon as it is known that the body is too long; 408 if the next part does not arrive in time; 415 if its
        coding is not known.
    RequestError
        The body cannot be decompressed.
    ClientDisconnect
        The client disconnected before it had sent the whole body.
    """
    coding = content_coding(scope)
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and (len(value) > 18 or int(value) > limit):
            raise _too_large(limit)

    message = await _receive_in_time(receive, seconds)
    body: bytes | bytearray = message.get("body", b"")
    while message["type"] == "http.request" and message.get("more_body"):
        if len(body) > limit:
            raise _too_large(limit)
        message = await _receive_in_time(receive, seconds)
        if not isinstance(body, bytearray):
            body = bytearray(body)
        body += message.get("body", b"")

    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    if len(body) > limit:
        raise _too_large(limit)
    if coding is None:
        return body
    decompressed = await decompress(body, coding, limit)
    if decompressed is None:
        raise _too_large(limit)
    return decompressed


async def _receive_in_time(receive: Receive, seconds: float) -> Message:
    try:
        async with asyncio.timeout(seconds):
            return await receive()
    except TimeoutError:
        raise HTTPException(
            408, f"the next part of the request body did not arrive within {seconds:g} s; see --timeout"
        ) from None


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the request body is larger than {limit} bytes; see --max-body-mb")
