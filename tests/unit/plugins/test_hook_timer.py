"""Slow hooks are reported with the plugin's name, and measuring does not change what hooks do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llamafw.plugins import hook_timer, manager
from support import distributions
from support.broken_plugins import BODY, IMPORT, hook_code
from support.distributions import Site


class Clock:
    """A clock that plugins advance themselves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


SLOW = """
from support.distributions import clock

@hookimpl
def request_finished(finish): clock.now += 0.2

@hookimpl(wrapper=True)
def prepare_request(body):
    clock.now += 0.03
    request = yield
    clock.now += 0.03
    return request

@hookimpl
def register_samplers(register): clock.now += 1
"""
FAST = """
from support.distributions import clock

@hookimpl(wrapper=True)
def prepare_request(body): return (yield)
"""


async def test_slow_hooks_are_reported_once_by_name(
    site: Site, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(distributions, "clock", clock, raising=False)
    for module in (hook_timer, manager):
        monkeypatch.setattr(module, "perf_counter", clock)
    name = site.install("llamafw-slow", IMPORT + SLOW)
    site.install("llamafw-a", IMPORT + FAST)
    site.install("llamafw-z", IMPORT + FAST)
    async with serve() as client:
        for _ in range(3):
            assert (await client.post("/completion", json=BODY)).status_code == 200
    messages = [record.getMessage() for record in caplog.records if record.name == "llamafw.plugins"]
    assert messages == [
        f"plugin {name} took 1000 ms in register_samplers",
        f"plugin {name} took 60 ms in prepare_request; all requests were blocked meanwhile",
        f"plugin {name} took 200 ms in request_finished; all requests were blocked meanwhile",
    ]


async def test_measured_wrappers_still_wrap(site: Site, serve: Callable[..., Any]) -> None:
    """A wrapper gets the exceptions of others at its ``yield``; its own exceptions and results reach the caller."""
    refuse = "\n    if 'refuse' in body.get('stop', ()): raise llamafw.RequestError('no')"
    site.install("llamafw-refuse", IMPORT + "import llamafw\n" + hook_code("prepare_request", "body", refuse))
    wrapper = """
from dataclasses import replace
from llamafw import RequestError

@hookimpl(wrapper=True)
def prepare_request(body):
    try:
        request = yield
    except RequestError as error:
        raise RequestError("wrapped: " + error.message)
    return replace(request, n_predict=2)
"""
    site.install("llamafw-wrap", IMPORT + wrapper)
    async with serve() as client:
        response = await client.post("/completion", json=BODY)
        assert response.json()["tokens_predicted"] == 2
        refused = await client.post("/completion", json={**BODY, "stop": ["refuse"]})
        assert refused.json()["error"]["message"] == "wrapped: no"
