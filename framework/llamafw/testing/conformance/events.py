"""The rules for event hooks: they raise nothing, they are quick, and they return nothing to await."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pytest

from llamafw.plugins import PluginRecord, Plugins
from llamafw.plugins.failures import describe
from llamafw.plugins.hook_timer import EVENT_LOOP_LIMIT
from llamafw.testing.conformance.base import Conformance, load
from llamafw.testing.plugin import load_plugins, serve_in_process, small_settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp

EVENTS = ("server_started", "model_loaded", "request_finished", "model_unloaded", "server_stopping")
N_REQUESTS = 3  # answers per server, each of which ends with request_finished
N_SERVERS = 3  # a hook is too slow if even its fastest call is, because the machine may be busy


@dataclass(slots=True)
class EventCalls:
    """The calls of one event hook: their durations, exceptions and results."""

    seconds: list[float] = field(default_factory=list)
    errors: list[tuple[BaseException, str]] = field(default_factory=list)  # with a remark on the arguments
    results: list[Any] = field(default_factory=list)


class EventsConformance(Conformance):
    """Subclass it and give the plugin's ``name``: its distribution, or what ``llamafw plugins`` lists.

    Every test runs once for each event hook that the plugin implements, in a real server with a few requests.
    """

    kind = "events"

    def settings(self, folder: Path) -> Mapping[str, Any]:
        """Return settings that switch the plugin on: ``{"extra": {…}}`` for flags of plugins.

        Parameters
        ----------
        folder : Path
            An empty folder, for files that the plugin needs.
        """
        return {}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test for every event hook that the plugin implements."""
        metafunc.parametrize("event", self.implemented_events())

    async def test_event_raises_nothing(self, event: str, tiny_model: Path, tmp_path: Path) -> None:
        """The hook raises no exception.

        `request_finished` is called with ``finish=None``, too, because a client disconnects.
        """
        calls = await self.run_server(tiny_model, tmp_path)
        for error, remark in calls[event].errors:
            raise AssertionError(f"{event} raised {describe(error)}{remark}") from error

    async def test_event_is_quick(self, event: str, tiny_model: Path, tmp_path: Path) -> None:
        """The hook returns within 50 ms, because no request proceeds while it runs."""
        seconds: list[float] = []
        for n in range(N_SERVERS):
            (folder := tmp_path / str(n)).mkdir()
            seconds += (await self.run_server(tiny_model, folder))[event].seconds
            if min(seconds) <= EVENT_LOOP_LIMIT:
                return
        took, limit = min(seconds) * 1e3, EVENT_LOOP_LIMIT * 1e3
        pytest.fail(f"{event} took at least {took:.0f} ms; the limit is {limit:.0f} ms. Do slow work on a thread")

    async def test_event_returns_no_awaitable(self, event: str, tiny_model: Path, tmp_path: Path) -> None:
        """The hook does not return a coroutine or another awaitable: the server does not await it."""
        calls = await self.run_server(tiny_model, tmp_path)
        awaitables = [result for result in calls[event].results if inspect.isawaitable(result)]
        for result in awaitables:
            if inspect.iscoroutine(result):
                result.close()
        assert not awaitables, f"{event} returns an awaitable, and nothing awaits it"

    # --- helpers

    def records(self) -> list[PluginRecord]:
        """Return the plugins of that name."""
        records = load(self.plugins).records.values()
        return [record for record in records if self.name in (record.name, record.distribution)]

    def implemented_events(self) -> list[str]:
        """Return the event hooks that the plugin implements; fail if there are none."""
        events = [event for event in EVENTS if any(event in record.hooks for record in self.records())]
        if not events:
            pytest.fail(f"no plugin {self.name!r} implements an event hook: {', '.join(EVENTS)}")
        return events

    async def run_server(self, model: Path, folder: Path) -> dict[str, EventCalls]:
        """Run a server from start to end, with complete and cancelled requests; return the calls of each event hook."""
        import httpx

        settings = small_settings(plugin=self.plugins, **self.settings(folder))
        plugins = load_plugins(settings)
        calls = record_calls(plugins, {record.name for record in self.records()})
        body = {"prompt": "the nation", "n_predict": 2, "ignore_eos": True}
        async with (
            serve_in_process(model, settings, plugins) as asgi,
            httpx.AsyncClient(transport=httpx.ASGITransport(asgi), base_url="http://test") as client,
        ):
            for _ in range(N_REQUESTS):
                response = await client.post("/completion", json=body)
                assert response.status_code == 200, response.text
            await disconnect_from_a_stream(asgi)

        for event in self.implemented_events():
            assert calls[event].seconds, f"the server has not called {event}"
        return calls


def record_calls(plugins: Plugins, names: set[str]) -> dict[str, EventCalls]:
    """Record all calls of the event hooks of some plugins from now on."""
    calls = {event: EventCalls() for event in EVENTS}
    for event in EVENTS:
        for impl in getattr(plugins.hook, event).get_hookimpls():
            if impl.plugin_name in names:
                recorded = _recorded(impl.function, calls[event])
                setattr(impl, "function", recorded)  # noqa: B010  # Final in pluggy, which has no other way to wrap it
    return calls


def _recorded(function: Callable[..., Any], calls: EventCalls) -> Callable[..., Any]:
    def recorded(**kwargs: Any) -> Any:
        start = perf_counter()
        try:
            result = function(**kwargs)
        except BaseException as error:
            is_cancelled = kwargs.get("finish", "") is None  # the client has disconnected
            calls.errors.append((error, " when finish was None" if is_cancelled else ""))
            raise
        finally:
            calls.seconds.append(perf_counter() - start)
        calls.results.append(result)
        return result

    return recorded


async def disconnect_from_a_stream(asgi: ASGIApp) -> None:
    """Ask for an endless stream, and disconnect after the first event."""
    has_event = asyncio.Event()
    body = json.dumps({"prompt": "the nation", "n_predict": -1, "ignore_eos": True, "stream": True}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await has_event.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message.get("body"):
            has_event.set()
            await asyncio.sleep(0)  # a real socket lets others run, too

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": "POST",
        "path": "/completion",
        "raw_path": b"/completion",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"test"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 123),
        "server": ("test", 80),
    }
    await asgi(scope, receive, send)
