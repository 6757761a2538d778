"""The header ``Request-Id``, in which Anthropic's clients look for the id of a request."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llamafw import request_id

PATH = "/v1/messages"
CLIENT_HEADER = b"anthropic-version"  # all of Anthropic's clients send it


class RequestIdMiddleware:
    """Adds ``Request-Id`` to the responses, also to errors, that Anthropic's clients read."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or not is_for_anthropic(scope):
            await self.app(scope, receive, send)
            return

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"request-id", request_id().encode())]
            await send(message)

        await self.app(scope, receive, send_with_id)


def is_for_anthropic(scope: Scope) -> bool:
    """Return whether a request has one of the plugin's paths, or the header of Anthropic's clients."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    return f"{path}/".startswith(f"{PATH}/") or any(name == CLIENT_HEADER for name, _ in scope["headers"])
