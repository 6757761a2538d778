"""Call the endpoint of a routed and validated request, and send what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llamafw.errors import GenerationError
from llamafw.server.authentication import USER
from llamafw.server.disconnect import CancelOnDisconnect
from llamafw.server.responses import JSONResponse
from llamafw.server.routing import operation_id_of
from llamafw.server.sender import read_sender
from llamafw.server.sse import EventStream
from llamafw.serving import Call, Endpoint
from llamafw.types import Problem
from llamafw.types.client import sender


class Dispatcher:
    """The innermost ASGI application: calls the endpoint of the operation that connexion found.

    Parameters
    ----------
    endpoints : mapping
        Endpoints by operationId.
    explain : callable
        Turns an exception that ends a stream into the error that the client receives.
    ping_interval : int
        Seconds between the comments in streams that wait; 0 or less: none. The field ``sse_ping_interval`` of a request
        takes precedence.
    """

    def __init__(
        self, endpoints: Mapping[str, Endpoint], explain: Callable[[BaseException], Problem], ping_interval: int
    ) -> None:
        self.endpoints, self.explain, self.ping_interval = endpoints, explain, ping_interval

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        The endpoint is cancelled if the client disconnects.
        """
        operation_id = operation_id_of(scope)
        if operation_id is None:
            raise HTTPException(404)

        parts = scope["extensions"]["llamafw"]
        call = Call(
            body=parts["body"],
            path=parts["path"],
            query=parts["query"],
            http=Request(scope),
            user=scope.get("state", {}).get(USER),
            ignored=parts.setdefault("ignored", []),
        )
        sender.set(read_sender(call.body, call.user))
        result = None
        async with CancelOnDisconnect(receive) as client:
            result = await self.endpoints[operation_id](call)

        if client.is_gone:
            if isinstance(result, EventStream):
                await result.close()
        elif isinstance(result, EventStream):
            await result.stream(scope, receive, send, self.explain, self._ping_seconds(call.body))
        elif isinstance(result, Response):
            await result(scope, receive, send)
        else:
            await json_response(operation_id, result)(scope, receive, send)

    def _ping_seconds(self, body: Any) -> float | None:
        """Return after how many seconds without an event a stream gets a comment; None: never."""
        given = body.get("sse_ping_interval") if isinstance(body, dict) else None
        seconds = self.ping_interval if given is None else int(given)
        return seconds if seconds > 0 else None


def json_response(operation_id: str, result: object) -> Response:
    """Return a JSON response with the result of an endpoint.

    Raises
    ------
    GenerationError
        The result cannot be written as JSON. The error names the endpoint as its source.
    """
    try:
        return JSONResponse(result)
    except TypeError as error:
        raise GenerationError("internal server error", source=("endpoint", operation_id)) from error
