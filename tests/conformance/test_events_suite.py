"""The suite for event hooks names the event and the rule that it breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamafw import PluginError
from llamafw.testing.conformance import EventsConformance
from support.conformance import assert_fails, suite

VALID = """
from llamafw import hookimpl

@hookimpl
def server_started(app): pass

@hookimpl
def model_loaded(model, app): pass

@hookimpl
def request_finished(request, finish): pass

@hookimpl
def model_unloaded(model, app): pass

@hookimpl
def server_stopping(app): pass
"""


@pytest.fixture
def events_suite(tmp_path: Path) -> Any:
    """Return a function that makes the suite for a plugin with the given source."""

    def make(source: str) -> Any:
        path = tmp_path / "events.py"
        path.write_text(source)
        return suite(EventsConformance, None, name=str(path), plugins=(str(path),))

    return make


async def test_valid_event_hooks_pass(events_suite: Any, tiny_model: Path, tmp_path: Path) -> None:
    made = events_suite(VALID)
    events = made.implemented_events()
    assert len(events) == 5
    for event in events:
        await made.test_event_raises_nothing(event, tiny_model, tmp_path)
        await made.test_event_returns_no_awaitable(event, tiny_model, tmp_path)
    await made.test_event_is_quick("request_finished", tiny_model, tmp_path)


async def test_server_reports_complete_and_cancelled_requests(
    events_suite: Any, tiny_model: Path, tmp_path: Path
) -> None:
    log = "def request_finished(request, finish): return finish and finish.stop_type"
    made = events_suite(VALID.replace("def request_finished(request, finish): pass", log))
    calls = await made.run_server(tiny_model, tmp_path)
    assert calls["request_finished"].results == ["limit"] * 3 + [None]


async def test_exception_is_reported_with_its_line(events_suite: Any, tiny_model: Path, tmp_path: Path) -> None:
    source = VALID.replace("request, finish): pass", "request, finish):\n    1 / 0")
    made = events_suite(source)
    line = source.splitlines().index("    1 / 0") + 1
    message = rf"request_finished raised ZeroDivisionError: division by zero \(events.py:{line}\)"
    with pytest.raises(AssertionError, match=message):
        await made.test_event_raises_nothing("request_finished", tiny_model, tmp_path)
    await made.test_event_raises_nothing("model_loaded", tiny_model, tmp_path)


async def test_slow_hook_is_reported(events_suite: Any, tiny_model: Path, tmp_path: Path) -> None:
    slow = "import threading\n" + VALID.replace("model, app): pass", "model, app): threading.Event().wait(0.2)", 1)
    made = events_suite(slow)
    with pytest.raises(pytest.fail.Exception, match=r"model_loaded took at least \d+ ms; the limit is 50 ms"):
        await made.test_event_is_quick("model_loaded", tiny_model, tmp_path)


async def test_awaitable_result_is_reported(events_suite: Any, tiny_model: Path, tmp_path: Path) -> None:
    coroutine = "def server_stopping(app):\n    async def stop(): pass\n    return stop()"
    made = events_suite(VALID.replace("def server_stopping(app): pass", coroutine))
    with pytest.raises(AssertionError, match="server_stopping returns an awaitable, and nothing awaits it"):
        await made.test_event_returns_no_awaitable("server_stopping", tiny_model, tmp_path)


def test_coroutine_function_is_refused(events_suite: Any) -> None:
    made = events_suite(VALID.replace("def server_stopping", "async def server_stopping"))
    with pytest.raises(PluginError, match="the hook server_stopping is defined with `async def`"):
        made.implemented_events()


def test_plugin_without_event_hooks_is_reported(events_suite: Any) -> None:
    made = events_suite("from llamafw import hookimpl\n@hookimpl\ndef wrap_asgi(asgi): return None\n")
    assert_fails(made.implemented_events, "implements an event hook: server_started, model_loaded")
