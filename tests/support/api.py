"""A small API with a document of its own, as a plugin, and a model that does nothing: for tests of the server.

``python -m support.api '{"port": 0}'`` serves it in a process of its own, with these settings.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from llamafw import (
    App,
    Call,
    LoadedModel,
    ModelError,
    Problem,
    Register,
    RequestError,
    Unavailable,
    event_stream,
    hookimpl,
)

DOCUMENT: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "api.yaml").read_text())


class Strange(Exception):
    """Explained by our hook."""


class Engine:
    """Counts what runs; `stop` waits for it, then cuts it."""

    n_slots, n_ctx = 1, 8

    def __init__(self) -> None:
        self.running = 0
        self.cut = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()

    async def work(self, until: asyncio.Event) -> str:
        """Return how the work ended."""
        self.running += 1
        self.idle.clear()
        try:
            await asyncio.wait(
                [asyncio.ensure_future(until.wait()), asyncio.ensure_future(self.cut.wait())],
                return_when="FIRST_COMPLETED",
            )
            if self.cut.is_set():
                raise Unavailable("the server is stopping")
            return "finished"
        finally:
            self.running -= 1
            if not self.running:
                self.idle.set()

    async def stop(self, timeout: float) -> None:  # noqa: ASYNC109  # the protocol's name
        try:
            await asyncio.wait_for(self.idle.wait(), timeout)
        except TimeoutError:
            self.cut.set()


class Api:
    """The endpoints, and what they have seen."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.seen: dict[str, int] = {"started": 0, "cancelled": 0, "closed": 0}
        self.release = asyncio.Event()

    async def health(self, call: Call) -> Any:
        return {"status": "ok", "model": self.app.loaded.name}

    async def echo(self, call: Call) -> Any:
        return {"body": call.body, "path": dict(call.path), "query": dict(call.query)}

    async def look(self, call: Call) -> Any:
        return self.seen

    async def let_go(self, call: Call) -> Any:
        self.release.set()
        return {}

    async def wait(self, call: Call) -> Any:
        self.seen["started"] += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.seen["cancelled"] += 1
            raise

    async def work(self, call: Call) -> Any:
        self.seen["started"] += 1
        if "seconds" in call.query:
            asyncio.get_running_loop().call_later(call.query["seconds"], self.release.set)
        return {"result": await self.app.loaded.engine.work(self.release)}  # type: ignore[attr-defined]  # our Engine

    async def stream(self, call: Call) -> Any:
        return event_stream(self._events(**call.body), done=call.body["done"])

    async def _events(self, n: int, fail_at: int, hold: bool, done: bool) -> AsyncIterator[Any]:
        self.seen["started"] += 1
        try:
            for i in range(n):
                if i == fail_at:
                    raise RequestError("no more", param="n")
                yield {"i": i}
                await asyncio.sleep(0)
            if hold:
                await self.release.wait()
                yield {"i": -1}
        finally:
            self.seen["closed"] += 1

    async def fail(self, call: Call) -> Any:
        match call.body["how"]:
            case "request":
                raise RequestError("you did it", param="how", extra={"hint": "do not"})
            case "group":
                raise ExceptionGroup("two", [ValueError("secret"), RequestError("inside", param="how")])
            case "strange":
                raise Strange
            case "secret":
                raise ValueError("secret of /home/me")
            case "unwritable":
                return object()

    async def wrong(self, call: Call) -> Any:
        return event_stream(self._wrong()) if call.query["stream"] else {"number": "one"}

    async def _wrong(self) -> AsyncIterator[Any]:
        yield {"i": 0}
        yield {"i": "one"}
        yield {"i": 2}

    async def document(self, call: Call) -> Any:
        return self.app.document


@hookimpl
def register_endpoints(register: Register, app: App) -> None:
    api = Api(app)
    for name in ("health", "echo", "look", "let_go", "wait", "work", "stream", "fail", "wrong", "document"):
        register(name, getattr(api, name))
    register("item", api.echo)
    register("file", api.echo)


@hookimpl
def explain_error(error: BaseException) -> Problem | None:
    return Problem(418, "explained", "teapot_error") if isinstance(error, Strange) else None


def load() -> LoadedModel:
    """Return the model that does nothing."""
    nothing: Any = SimpleNamespace()
    return LoadedModel("nothing", nothing, nothing, nothing, nothing, Engine())  # type: ignore[arg-type]  # it is enough


def main() -> int:
    """Serve, as the settings in the command line say; LOAD says how loading goes."""
    from llamafw.cli.logs import set_up_logging
    from llamafw.plugins import Plugins
    from llamafw.server.run import serve
    from llamafw.settings import Settings

    def load_somehow() -> LoadedModel:
        how = os.environ.get("LOAD", "")
        if how == "never":
            threading.Event().wait()
        if how == "fail":
            raise ModelError("the file is not a model")
        if how == "crash":
            raise ZeroDivisionError
        return load()

    settings = Settings(**json.loads(sys.argv[1]))
    set_up_logging(settings)
    plugins = Plugins(extra=["support.api"], block=["endpoints", "metrics"])
    return serve(settings, plugins, load_somehow, document=DOCUMENT)


if __name__ == "__main__":
    sys.exit(main())
