"""Send requests to the application itself, and collect its responses."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Scope

from llamafw_plugins.vertex import FORMAT

_BODY_HEADERS = (b"content-length", b"content-type", b"content-encoding", b"transfer-encoding", b"accept-encoding")


async def predict_all(
    asgi: ASGIApp, scope: Scope, instances: Sequence[Mapping[str, Any]], formats: Mapping[str, str]
) -> list[Any]:
    """Return the predictions in the order of the instances.

    If the client disconnects, all requests are cancelled.

    Parameters
    ----------
    asgi : ASGI application
        Answers the requests.
    scope : mapping
        The request for predictions; its headers, such as the key, are those of all requests.
    formats : mapping
        The path of each format.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_predict(asgi, scope, instance, formats)) for instance in instances]
    return [task.result() for task in tasks]


async def _predict(asgi: ASGIApp, scope: Scope, instance: Mapping[str, Any], formats: Mapping[str, str]) -> Any:
    name = instance.get(FORMAT)
    if not isinstance(name, str):
        return _error(f"each instance needs {FORMAT}, a string such as chatCompletions")
    if name not in formats:
        near = get_close_matches(name, formats, n=1)
        return _error(f"{FORMAT} {name[:100]!r} is not known{f'; did you mean {near[0]!r}?' if near else ''}")

    body = {field: value for field, value in instance.items() if field not in (FORMAT, "stream")}
    answer = await _send(asgi, scope, "POST", formats[name], orjson.dumps(body))
    return orjson.loads(answer.body)


async def get_response(asgi: ASGIApp, scope: Scope, path: str) -> Response:
    """Return the response to a GET request."""
    return await _send(asgi, scope, "GET", path, b"")


async def _send(asgi: ASGIApp, scope: Scope, method: str, path: str, body: bytes) -> Response:
    """Send a request with the headers of another one, and return the whole response."""
    full_path = scope.get("app_root_path", scope.get("root_path", "")) + path
    inner: Scope = {
        "type": "http",
        "asgi": scope["asgi"],
        "http_version": scope["http_version"],
        "method": method,
        "scheme": scope["scheme"],
        "path": full_path,
        "raw_path": full_path.encode(),
        "root_path": scope.get("app_root_path", scope.get("root_path", "")),
        "query_string": b"",
        "headers": [
            *((name, value) for name, value in scope["headers"] if name not in _BODY_HEADERS),
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
        ],
        "client": scope.get("client"),
        "server": scope.get("server"),
        "state": {},
        "extensions": {},
    }
    messages: list[Message] = []
    is_sent = False

    async def receive() -> Message:
        nonlocal is_sent
        if is_sent:
            await asyncio.Event().wait()  # the request is cancelled with the whole prediction
        is_sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    await asgi(inner, receive, send)
    start, *parts = messages
    response = Response(b"".join(part.get("body", b"") for part in parts), status_code=start["status"])
    response.headers["content-type"] = dict(start["headers"]).get(b"content-type", b"application/json").decode()
    return response


def _error(message: str) -> dict[str, Any]:
    return {"error": {"code": 400, "message": message, "type": "invalid_request_error", "param": FORMAT}}
