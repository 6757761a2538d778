"""Who used how many tokens: counted as requests finish, read at ``GET /usage`` and by ``llamafw usage``.

A request knows its tokens, not its sender; an ASGI wrapper remembers that in a context variable, which asyncio hands
down to whatever runs for the request. Users are called as an authentication plugin calls them, or else by the first
letters of their key's hash.
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

sender: ContextVar[MutableMapping[str, Any]] = ContextVar("sender")


class Remember:
    """An ASGI application around another that remembers whose request is being answered."""

    def __init__(self, asgi: ASGIApp) -> None:
        self.asgi = asgi

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http":
            scope.setdefault("state", {})
            sender.set(scope)
        await self.asgi(scope, receive, send)


def user_of(scope: MutableMapping[str, Any] | None) -> str:
    """Return what to call the sender of a request."""
    if scope is None:  # the server itself
        return "server"
    if "user" in scope["state"]:  # as the server, or an authentication plugin, knows them
        return str(scope["state"]["user"].name)
    headers = dict(scope["headers"])
    key: bytes = headers.get(b"authorization", b"").removeprefix(b"Bearer ").strip() or headers.get(b"x-api-key", b"")
    return f"key-{hashlib.sha256(key).hexdigest()[:8]}" if key else "anonymous"


class Usage:
    """The plugin, with what it has counted."""

    requires_api = ">=1.0,<2"

    def __init__(self) -> None:
        self.ledger: Ledger | None = None

    @hookimpl
    def add_options(self, parser: ArgumentParser) -> None:
        """Add the flag."""
        parser.add_argument("--usage-db", metavar="FILE", help="count tokens in this SQLite file (default: in memory)")

    @hookimpl
    def register_commands(self, register: Register) -> None:
        """Add ``llamafw usage``."""
        from llamafw_usage.command import main

        register("usage", main)

    @hookimpl
    def wrap_asgi(self, asgi: ASGIApp, app: App) -> ASGIApp:
        """Stand around the server."""
        return Remember(asgi)

    @hookimpl
    def request_finished(self, request: GenerateRequest, finish: Finish | None) -> None:
        """Count one generation; of one that was cancelled or failed the prompt is known."""
        if self.ledger is not None:
            finish = finish or Finish("none", n_prompt=len(request.prompt))
            self.ledger.add(user_of(sender.get(None)), finish.n_prompt, finish.n_cached, finish.n_predicted)

    @hookimpl
    def register_endpoints(self, register: Register, app: App) -> None:
        """Open the ledger and serve it."""
        from llamafw_usage.ledger import Ledger

        self.ledger = Ledger(app.settings.extra.get("usage_db") or ":memory:")
        register("getUsage", self.get)

    async def get(self, call: Call) -> Any:
        """GET /usage"""
        assert self.ledger is not None  # it was opened when this was registered
        return {"object": "list", "data": await self.ledger.rows(call.query.get("since", ""))}

    @hookimpl
    def server_stopping(self, app: App) -> None:
        """Write what is left, close the file."""
        if self.ledger is not None:
            self.ledger.close()

    @hookimpl
    def extend_openapi(self) -> Mapping[str, Any]:
        """Return the operation."""
        import yaml

        fragment: dict[str, Any] = yaml.safe_load(files("llamafw_usage").joinpath("openapi.yaml").read_text("utf-8"))
        return fragment
