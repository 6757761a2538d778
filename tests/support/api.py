"""A small API with its own document, as a plugin, and a model that does nothing, for tests of the server.

``python -m support.api '{"port": 0}'`` serves it with the given settings. The environment variable ``LOAD`` says how
loading the model goes wrong: ``fail``, ``crash`` or ``never`` (it does not end).
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

BUILT_IN_APIS = ["endpoints", "metrics", "anthropic", "ollama", "responses"]
"""Plugins whose operations are not in the document of this API."""

DOCUMENT: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "api.yaml").read_text())


class ExplainedError(Exception):
    """Turned into a response by `explain_error`."""


class ApiEngine:
    """Counts running calls of `work`.

    `stop` waits for them, and ends them when its time is over.
    """

    n_slots, n_ctx = 1, 8

    def __init__(self) -> None:
        self.running = 0
        self.stopped = asyncio.Event()
        self.idle = asyncio.Event()
        self.idle.set()

    async def work(self, until: asyncio.Event) -> str:
        """Wait for an event, and return ``finished``.

        Raise `Unavailable` if the engine is stopped.
        """
        self.running += 1
        self.idle.clear()
        try:
            waiting = [asyncio.ensure_future(event.wait()) for event in (until, self.stopped)]
            await asyncio.wait(waiting, return_when="FIRST_COMPLETED")
            if self.stopped.is_set():
                raise Unavailable("the server is stopping")
            return "finished"
        finally:
            self.running -= 1
            if not self.running:
                self.idle.set()

    async def stop(self, timeout: float) -> None:  # noqa: ASYNC109  # the protocol has this parameter
        try:
            await asyncio.wait_for(self.idle.wait(), timeout)
        except TimeoutError:
            self.stopped.set()


class Api:
    """The endpoints.

    ``calls`` counts the calls of some of them: how many started, were cancelled, or closed.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self.calls = {"started": 0, "cancelled": 0, "closed": 0}
        self.released = asyncio.Event()

    async def health(self, call: Call) -> Any:
        return {"status": "ok", "model": self.app.loaded.name}

    async def echo(self, call: Call) -> Any:
        return {"body": call.body, "path": dict(call.path), "query": dict(call.query)}

    async def counts(self, call: Call) -> Any:
        return self.calls

    async def release(self, call: Call) -> Any:
        self.released.set()
        return {}

    async def wait(self, call: Call) -> Any:
        self.calls["started"] += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.calls["cancelled"] += 1
            raise

    async def work(self, call: Call) -> Any:
        self.calls["started"] += 1
        if "seconds" in call.query:
            asyncio.get_running_loop().call_later(call.query["seconds"], self.released.set)
        return {"result": await self.app.loaded.engine.work(self.released)}  # type: ignore[attr-defined]  # the engine above

    async def stream(self, call: Call) -> Any:
        body = {name: value for name, value in call.body.items() if name not in ("done", "sse_ping_interval")}
        return event_stream(self._events(**body), done=call.body["done"])

    async def _events(self, n: int, fail_at: int, hold: bool) -> AsyncIterator[Any]:
        self.calls["started"] += 1
        try:
            for i in range(n):
                if i == fail_at:
                    raise RequestError("failed in the stream", param="n")
                yield {"i": i}
                await asyncio.sleep(0)
            if hold:
                await self.released.wait()
                yield {"i": -1}
        finally:
            self.calls["closed"] += 1

    async def fail(self, call: Call) -> Any:
        match call.body["how"]:
            case "request":
                raise RequestError("invalid request", param="how", extra={"hint": "try again"})
            case "group":
                raise ExceptionGroup("two", [ValueError("secret"), RequestError("inside", param="how")])
            case "explained":
                raise ExplainedError
            case "secret":
                raise ValueError("secret of /home/me")
            case "unserializable":
                return object()

    async def invalid(self, call: Call) -> Any:
        return event_stream(self._invalid_events()) if call.query["stream"] else {"number": "one"}

    async def _invalid_events(self) -> AsyncIterator[Any]:
        yield {"i": 0}
        yield {"i": "one"}
        yield {"i": 2}

    async def document(self, call: Call) -> Any:
        return self.app.document


@hookimpl
def register_endpoints(register: Register, app: App) -> None:
    api = Api(app)
    for name in ("health", "echo", "counts", "release", "wait", "work", "stream", "fail", "invalid", "document"):
        register(name, getattr(api, name))
    register("item", api.echo)
    register("file", api.echo)


@hookimpl
def explain_error(error: BaseException) -> Problem | None:
    return Problem(418, "explained", "teapot_error") if isinstance(error, ExplainedError) else None


def load() -> LoadedModel:
    """Return a model that does nothing."""
    nothing: Any = SimpleNamespace()
    return LoadedModel("nothing", nothing, nothing, nothing, nothing, ApiEngine())  # type: ignore[arg-type]  # has what the tests use


def main() -> int:
    """Serve the API with the settings on the command line."""
    from llamafw.cli.logs import set_up_logging
    from llamafw.plugins import Plugins
    from llamafw.server.run import serve
    from llamafw.settings import Settings

    def load_or_fail() -> LoadedModel:
        how = os.environ.get("LOAD")
        if how == "never":
            threading.Event().wait()
        if how == "fail":
            raise ModelError("the file is not a model")
        if how == "crash":
            raise ZeroDivisionError
        return load()

    settings = Settings(**json.loads(sys.argv[1]))
    set_up_logging(settings)
    plugins = Plugins(extra=["support.api"], block=BUILT_IN_APIS)
    return serve(settings, plugins, load_or_fail, document=DOCUMENT)


if __name__ == "__main__":
    sys.exit(main())
