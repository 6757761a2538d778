"""From a routed, validated request to its endpoint, and from what that returns to the client."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llamafw.errors import GenerationError
from llamafw.server.auth import USER
from llamafw.server.disconnect import Disconnect
from llamafw.server.responses import JSONResponse
from llamafw.server.routing import operation_of
from llamafw.server.sse import EventStream
from llamafw.serving import Call, Endpoint
from llamafw.types import Problem


class Dispatcher:
    """The innermost ASGI application: calls the endpoint of the operation that connexion found.

    Parameters
    ----------
    endpoints : mapping
        Endpoints by operationId.
    explain : callable
        How clients see an exception, for those in the middle of a stream.
    """

    def __init__(self, endpoints: Mapping[str, Endpoint], explain: Callable[[BaseException], Problem]) -> None:
        self.endpoints, self.explain = endpoints, explain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. The endpoint is cancelled when the client goes away."""
        name = operation_of(scope)
        if name is None:
            raise HTTPException(404)
        parts = scope["extensions"]["llamafw"]
        call = Call(
            body=parts["body"],
            path=parts["path"],
            query=parts["query"],
            http=Request(scope),
            user=scope.get("state", {}).get(USER),
        )
        result = None
        async with Disconnect(receive) as client:
            result = await self.endpoints[name](call)
        if client.gone:
            if isinstance(result, EventStream):
                await result.close()
        elif isinstance(result, EventStream):
            await result.stream(scope, receive, send, self.explain)
        elif isinstance(result, Response):
            await result(scope, receive, send)
        else:
            await as_json(name, result)(scope, receive, send)


def as_json(name: str, result: object) -> Response:
    """Return what an endpoint returned as JSON; its fault if that cannot be, though none of its code raises it."""
    try:
        return JSONResponse(result)
    except TypeError as error:
        raise GenerationError("internal server error", source=("endpoint", name)) from error
