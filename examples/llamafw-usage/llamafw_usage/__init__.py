"""Count the tokens of each user, and show them at ``GET /usage`` and by ``llamafw usage``.

The hook that counts gets a request's tokens but not its sender. An ASGI wrapper therefore stores the sender in a
context variable, which asyncio passes on to all tasks of the request. Users are named by an authentication plugin, or
else by the first digits of their key's hash.
"""

from __future__ import annotations

import hashlib
from argparse import ArgumentParser
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from llamafw import App, Call, Finish, GenerateRequest, Register, hookimpl

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from llamafw_usage.ledger import Ledger

current_scope: ContextVar[MutableMapping[str, Any]] = ContextVar("current_scope")


class RememberScope:
    """An ASGI application that stores the scope of each request in `current_scope`."""

    def __init__(self, asgi: ASGIApp) -> None:
        self.asgi = asgi

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Store the scope and pass the request on."""
        if scope["type"] == "http":
            scope.setdefault("state", {})
            current_scope.set(scope)
        await self.asgi(scope, receive, send)


def user_of(scope: MutableMapping[str, Any] | None) -> str:
    """Return the name of the user who sent a request."""
    if scope is None:  # a request of the server itself
        return "server"
    if "user" in scope["state"]:  # set by the server or an authentication plugin
        return str(scope["state"]["user"].name)

    headers = dict(scope["headers"])
    key: bytes = headers.get(b"authorization", b"").removeprefix(b"Bearer ").strip() or headers.get(b"x-api-key", b"")
    return f"key-{hashlib.sha256(key).hexdigest()[:8]}" if key else "anonymous"


class Usage:
    """The plugin and its ledger."""

    requires_api = ">=1.0,<2"

    def __init__(self) -> None:
        self.ledger: Ledger | None = None

    @hookimpl
    def add_options(self, parser: ArgumentParser) -> None:
        """Add the flag ``--usage-db``."""
        parser.add_argument("--usage-db", metavar="FILE", help="count tokens in this SQLite file (default: in memory)")

    @hookimpl
    def register_commands(self, register: Register) -> None:
        """Add the command ``llamafw usage``."""
        from llamafw_usage.command import main

        register("usage", main)

    @hookimpl
    def wrap_asgi(self, asgi: ASGIApp, app: App) -> ASGIApp:
        """Wrap the server."""
        return RememberScope(asgi)

    @hookimpl
    def request_finished(self, request: GenerateRequest, finish: Finish | None) -> None:
        """Count a generation; of a cancelled or failed one, only the prompt is counted."""
        if self.ledger is not None:
            finish = finish or Finish("none", n_prompt=len(request.prompt))
            self.ledger.add(user_of(current_scope.get(None)), finish.n_prompt, finish.n_cached, finish.n_predicted)

    @hookimpl
    def register_endpoints(self, register: Register, app: App) -> None:
        """Open the ledger and register the endpoint."""
        from llamafw_usage.ledger import Ledger

        self.ledger = Ledger(app.settings.extra.get("usage_db") or ":memory:")
        register("getUsage", self.get)

    async def get(self, call: Call) -> Any:
        """Answer ``GET /usage``."""
        assert self.ledger is not None  # opened in `register_endpoints`
        return {"object": "list", "data": await self.ledger.rows(call.query.get("since", ""))}

    @hookimpl
    def server_stopping(self, app: App) -> None:
        """Finish pending writes and close the ledger."""
        if self.ledger is not None:
            self.ledger.close()

    @hookimpl
    def extend_openapi(self) -> Mapping[str, Any]:
        """Return the operation as an OpenAPI fragment."""
        import yaml

        fragment: dict[str, Any] = yaml.safe_load(files("llamafw_usage").joinpath("openapi.yaml").read_text("utf-8"))
        return fragment
