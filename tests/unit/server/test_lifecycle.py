"""The life of the server: the model is loaded while it answers, hooks are called, and it stops."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

from llamafw import LoadedModel, ModelError, PluginError, Settings, hookimpl
from llamafw.plugins import Plugins
from llamafw.server.app import build_app
from support import api
from support.api_client import OpenClient, client_opener
from support.envelope import read_error


@pytest.mark.inventory("P-01", "P-02", "R-07")
async def test_requests_get_503_while_the_model_loads(opened: OpenClient) -> None:
    go = threading.Event()

    def load_slowly() -> LoadedModel:
        assert go.wait(60)
        return api.load()

    async with opened(load=load_slowly, wait=False, api_key=("one",)) as client:
        for method, path in (("get", "/health"), ("post", "/echo"), ("get", "/items/1")):
            response = await client.request(method, path)
            assert read_error(response, 503, "unavailable_error")["message"] == "Loading model"
        assert (await client.get("/openapi.json")).status_code == 200
        assert (await client.get("/docs/")).status_code == 200
        read_error(await client.get("/nope"), 503, "unavailable_error")
        go.set()
        async with asyncio.timeout(60):
            while (await client.get("/health")).status_code == 503:  # noqa: ASYNC110  # a thread will end it
                await asyncio.sleep(0)
        assert (await client.get("/health")).json() == {"status": "ok", "model": "nothing"}


@pytest.mark.inventory("P-03")
@pytest.mark.parametrize(
    ("error", "traceback"), [(ModelError("not a model"), False), (KeyError("x"), True), (MemoryError(), True)]
)
async def test_failures_to_load_the_model_are_logged(
    plugins: Plugins, caplog: pytest.LogCaptureFixture, error: Exception, traceback: bool
) -> None:
    def load() -> LoadedModel:
        raise error

    failed = asyncio.Event()
    _, _, loader = build_app(Settings(), plugins, load, failed=failed.set, document=api.DOCUMENT)
    async with loader.lifespan(None):
        await asyncio.wait_for(failed.wait(), 60)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("cannot load the model: ")
    assert bool(record.exc_info) is traceback


@pytest.mark.inventory("P-01")
async def test_ready_is_called_when_requests_are_answered(plugins: Plugins) -> None:
    ready = asyncio.Event()
    _, app, loader = build_app(Settings(), plugins, api.load, ready=ready.set, document=api.DOCUMENT)
    async with loader.lifespan(None):
        await asyncio.wait_for(ready.wait(), 60)
        assert app.loaded.name == "nothing"


class EventRecorder:
    """A plugin that records its events and wraps the application."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.statuses: list[int] = []

    @hookimpl
    def server_started(self, app: Any) -> None:
        self.events.append("started")
        raise ValueError("a failure of a plugin")

    @hookimpl
    def model_loaded(self, model: Any, app: Any) -> None:
        self.events.append("loaded")

    @hookimpl
    def server_stopping(self, app: Any) -> None:
        self.events.append("stopping")

    @hookimpl
    def wrap_asgi(self, asgi: Any, app: Any) -> Any:
        async def wrapper(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and scope["path"] == "/broken":
                raise ValueError("a failure of a wrapper")

            async def watch_send(message: Any) -> None:
                if message["type"] == "http.response.start":
                    self.statuses.append(message["status"])
                await send(message)

            await asgi(scope, receive, watch_send)

        return wrapper


async def test_event_hooks_are_called_in_order(caplog: pytest.LogCaptureFixture) -> None:
    plugins, recorder = (
        Plugins(extra=["support.api"], block=api.BUILT_IN_APIS),
        EventRecorder(),
    )
    plugins.pm.register(recorder, name="recorder")
    async with client_opener(plugins)() as client:
        assert recorder.events == ["started", "loaded"]
        assert "plugin recorder failed in server_started" in caplog.text
        await client.get("/health")
        await client.get("/nope")
        assert recorder.statuses == [200, 404]
        read_error(await client.get("/broken"), 500, "server_error")
    assert recorder.events == ["started", "loaded", "stopping"]


def test_startup_fails_if_a_wrapper_is_not_an_application() -> None:
    class Wrong:
        @hookimpl
        def wrap_asgi(self, asgi: Any, app: Any) -> Any:
            return "not an application"

    plugins = Plugins(extra=["support.api"], block=api.BUILT_IN_APIS)
    plugins.pm.register(Wrong(), name="wrong")
    with pytest.raises(PluginError, match="plugin wrong: wrap_asgi returned 'not an application'"):
        build_app(Settings(), plugins, api.load, document=api.DOCUMENT)


@pytest.mark.inventory("C-113")
async def test_threads_http_sets_the_number_of_threads(opened: OpenClient) -> None:
    def thread_name() -> str:
        both_running.wait()
        return threading.current_thread().name

    both_running = threading.Barrier(2, timeout=60)
    async with opened(threads_http=2):
        names = await asyncio.gather(*(asyncio.to_thread(thread_name) for _ in range(12)))
    assert sorted(set(names)) == ["llamafw-http_0", "llamafw-http_1"]
