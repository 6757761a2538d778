"""Plugins that fail while the server runs: only the request concerned fails, and the response names the plugin."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from llamafw import GenerationError
from support.broken_plugins import BACKEND, BODY, IMPORT, OPERATION, SAMPLER, failure_counts, hook_code, plugin_error
from support.distributions import Site

pytestmark = pytest.mark.slow


def errors(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the records that report failures."""
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "code",
    [
        OPERATION,
        hook_code("prepare_request", "body", "return 1 / 0 if 'bad' in body.get('stop', ()) else None"),
        "@hookimpl(wrapper=True)\ndef prepare_request(body):\n    request = yield\n"
        "    return 1 / 0 if 'bad' in body.get('stop', ()) else request\n",
        "class Wrapped:\n    def __init__(self, asgi): self.asgi = asgi\n"
        "    async def __call__(self, scope, receive, send):\n        if scope['path'] == '/bad': 1 / 0\n"
        "        await self.asgi(scope, receive, send)\n" + hook_code("wrap_asgi", "asgi", "return Wrapped(asgi)"),
    ],
    ids=["endpoint", "hook", "hook wrapper", "ASGI wrapper"],
)
async def test_only_the_request_that_failed_is_a_500(
    site: Site, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture, code: str
) -> None:
    name = site.install("llamafw-bad", IMPORT + code)
    async with serve(metrics=True) as client:

        async def request_that_fails() -> httpx.Response:
            if "prepare" in code:
                response = await client.post("/completion", json={**BODY, "stop": ["bad"]})
            else:
                response = await client.get("/bad")
            assert isinstance(response, httpx.Response)
            return response

        others = [client.post("/completion", json=BODY) for _ in range(3)]
        *responses, failed = await asyncio.gather(*others, request_that_fails())
        assert plugin_error(failed, name) == "internal server error"
        assert [response.status_code for response in responses] == [200] * 3
        assert len({response.json()["content"] for response in responses}) == 1
        assert await failure_counts(client) == {(name, "request"): 1}
    (record,) = errors(caplog)
    assert f"failed in plugin {name}" in record.getMessage()
    assert "ZeroDivisionError" in caplog.text


async def test_a_response_that_breaks_the_plugins_document_names_the_plugin(
    site: Site, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    name = site.install("llamafw-bad", IMPORT + OPERATION.replace("1 / 0", "return 7"))
    async with serve(metrics=True) as client:
        message = plugin_error(await client.get("/bad"), name)
        assert message.endswith("it must be an object")
        assert await failure_counts(client) == {(name, "request"): 1}
    (record,) = errors(caplog)
    assert name in record.getMessage()
    assert "getBad" in record.getMessage()


async def test_a_failed_explain_error_does_not_change_the_response(
    site: Site, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    name = site.install("llamafw-bad", IMPORT + hook_code("explain_error", "error"))
    async with serve(metrics=True) as client:
        for _ in range(2):
            assert (await client.post("/completion", json={})).status_code == 400
        assert await failure_counts(client) == {(name, "request"): 2}
    first, second = errors(caplog)
    assert first.getMessage() == second.getMessage()
    assert first.getMessage().startswith(f"plugin {name} failed in explain_error: ZeroDivisionError")
    assert first.exc_info is not None
    assert second.exc_info is None, "the traceback is in the log already"


async def test_other_plugins_are_notified_if_one_fails(
    site: Site, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    events = {
        "server_started": "app",
        "model_loaded": "app",
        "request_finished": "finish",
        "model_unloaded": "app",
        "server_stopping": "app",
    }
    name = site.install("llamafw-bad", IMPORT + "".join(hook_code(each, given) for each, given in events.items()))
    listener = "".join(hook_code(each, given, f"received.append('{each}')") for each, given in events.items())
    site.install("llamafw-then", f"{IMPORT}received = []\n{listener}")
    async with serve(metrics=True) as client:
        assert (await client.post("/completion", json=BODY)).status_code == 200
        assert await failure_counts(client) == {(name, "event"): 3}
    import llamafw_then  # type: ignore[import-not-found]  # written above

    assert llamafw_then.received == list(events)
    messages = [record.getMessage() for record in errors(caplog)]
    assert len(messages) == len(events)
    for event, message in zip(events, messages, strict=True):
        assert message.startswith(f"plugin {name} failed in {event}: ZeroDivisionError: division by zero (llamafw_bad")


async def test_the_traceback_of_a_hook_leaves_out_the_requests_error(
    site: Site, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    code = SAMPLER + hook_code("request_finished", "finish", "[].pop()")
    site.install("llamafw-bad", IMPORT + code)
    async with serve() as client:
        body = {**BODY, "samplers": ["bad", "temperature"], "bad": "apply"}
        assert (await client.post("/completion", json=body)).status_code == 500
    first, second = errors(caplog)
    assert first.exc_info
    assert isinstance(first.exc_info[1], GenerationError)
    assert second.exc_info
    assert isinstance(second.exc_info[1], IndexError)
    assert second.exc_info[1].__context__ is None


# --- tokens


@pytest.mark.parametrize("where", ["create", "apply", "accept"])
async def test_a_failed_sampler_fails_only_its_request(
    site: Site, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture, where: str
) -> None:
    name = site.install("llamafw-bad", IMPORT + SAMPLER)
    body = {**BODY, "samplers": ["bad", "temperature"]}
    async with serve(metrics=True, parallel=4) as client:
        bodies = [body, {**body, "bad": where}, body, {**body, "bad": "nowhere"}]
        first, failed, *others = await asyncio.gather(*(client.post("/completion", json=body) for body in bodies))
        assert plugin_error(failed, name) == "the sampler 'bad' failed"
        assert {response.json()["content"] for response in others} == {first.json()["content"]}
        assert await failure_counts(client) == {(name, "request" if where == "create" else "token"): 1}
    (record,) = errors(caplog)
    assert f"in plugin {name}" in record.getMessage()
    assert record.exc_info is not None
    assert caplog.text.count("ZeroDivisionError: secret") == 1


async def test_a_failed_backend_fails_only_the_request_at_fault(
    site: Site, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    name = site.install("llamafw-bad", IMPORT + BACKEND)
    async with serve(backend="bad", metrics=True, parallel=3) as client:
        bodies = [{**BODY, "ignore_eos": True, "n_predict": n} for n in (4, 60, 4)]
        first, failed, other = await asyncio.gather(*(client.post("/completion", json=body) for body in bodies))
        assert plugin_error(failed, name) == "the model failed"
        assert first.json()["content"] == other.json()["content"]
        assert await failure_counts(client) == {(name, "token"): 1}
    (record,) = errors(caplog)
    assert f"in plugin {name}" in record.getMessage()


USE_GRAMMAR = (
    "from dataclasses import replace\nfrom llamafw import GrammarSource\n@hookimpl(wrapper=True)\n"
    "def prepare_request(body):\n    return replace((yield), grammar=GrammarSource('bad', 'x'))\n"
)
GRAMMAR = (
    "class Bad:\n    ended = False\n    def accept(self, token): 1 / 0\n    def mask(self, logits): 1 / 0\n"
    "    def copy(self): 1 / 0\n"
)


def register_compiler(factory: str) -> str:
    return hook_code("register_grammars", "register", f"register('bad', {factory})") + USE_GRAMMAR


@pytest.mark.parametrize(
    "code",
    [
        "class Bad:\n    source = 'x'\n    def render(self, messages, **more): 1 / 0\n"
        + hook_code("choose_chat_format", "model", "return Bad()"),
        "class Bad:\n    def compile(self, source): 1 / 0\n" + register_compiler("lambda context: Bad()"),
        register_compiler("lambda context: object()"),
        "class Bad:\n    def compile(self, source): return object()\n" + register_compiler("lambda context: Bad()"),
        GRAMMAR
        + "class Compiler:\n    def compile(self, source): return Bad()\n"
        + register_compiler("lambda context: Compiler()"),
    ],
    ids=["chat format", "compile", "compiler without compile", "grammar without members", "grammar"],
)
async def test_the_response_names_the_plugin_of_other_objects(
    site: Site, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture, code: str
) -> None:
    name = site.install("llamafw-bad", IMPORT + code)
    async with serve() as client:
        messages = [{"role": "user", "content": "Hello"}]
        body = {"messages": messages, "max_tokens": 2}
        plugin_error(await client.post("/v1/chat/completions", json=body), name)
        assert (await client.get("/health")).status_code == 200
    (record,) = errors(caplog)
    assert f"in plugin {name}" in record.getMessage()


@pytest.mark.parametrize("where", ["create", "apply", "accept", "forward", "endpoint", "chat format"])
async def test_sys_exit_in_a_plugin_does_not_end_the_server(site: Site, serve: Callable[..., Any], where: str) -> None:
    exits = "raise SystemExit('secret')"
    chat_format = "class Exiting:\n    source = 'x'\n    def render(self, messages, **more): 1 / 0\n" + hook_code(
        "choose_chat_format", "model", "return Exiting()"
    )
    code = SAMPLER + BACKEND.replace("Bad", "Worse") + OPERATION + chat_format
    for failure in ('raise ZeroDivisionError("secret")', 'raise MemoryError("secret")', "1 / 0"):
        assert failure in code
        code = code.replace(failure, exits)
    name = site.install("llamafw-bad", IMPORT + code)
    async with serve(backend="bad", metrics=True, parallel=2) as client:
        match where:
            case "endpoint":
                failing = client.get("/bad")
            case "chat format":
                messages = [{"role": "user", "content": "Hello"}]
                failing = client.post("/v1/chat/completions", json={"messages": messages})
            case "forward":
                failing = client.post("/completion", json={**BODY, "ignore_eos": True, "n_predict": 60})
            case _:
                body = {**BODY, "samplers": ["bad", "temperature"], "bad": where}
                failing = client.post("/completion", json=body)
        failed, other = await asyncio.gather(failing, client.post("/completion", json=BODY))
        plugin_error(failed, name)
        assert other.status_code == 200
        assert sum((await failure_counts(client)).values()) == 1
        assert (await client.get("/health")).status_code == 200


async def test_in_a_stream_the_error_is_the_last_event(site: Site, serve: Callable[..., Any]) -> None:
    fails_at_third_token = "self.n = getattr(self, 'n', 0) + 1\n        if self.n == 3"
    name = site.install("llamafw-bad", IMPORT + SAMPLER.replace('if self.where == "accept"', fails_at_third_token))
    async with serve() as client:
        body = {**BODY, "samplers": ["bad", "temperature"], "bad": "later", "stream": True}
        text = (await client.post("/completion", json=body)).text
    assert f'"plugin":"{name}"' in text.strip().rpartition("data: ")[2]
    assert text.count("data: ") == 3


async def test_no_hook_is_called_per_token(site: Site, serve: Callable[..., Any]) -> None:
    """A plugin that implements all hooks counts as many calls for two tokens as for sixty."""
    from support.spy import HOOKS

    site.install(
        "llamafw-count",
        IMPORT + "import collections, inspect\nfrom llamafw import hookspecs\n"
        "n = collections.Counter()\n"
        "def spy(name):\n"
        "    names = ', '.join(inspect.signature(getattr(hookspecs, name)).parameters)\n"
        "    return hookimpl(eval(f'lambda {names}: n.update([name])', {'n': n, 'name': name}))\n"
        f"for name in {HOOKS}: globals()[name] = spy(name)\n",
    )
    calls = []
    async with serve() as client:
        import llamafw_count  # type: ignore[import-not-found]  # written above

        for n in (2, 60):
            before = llamafw_count.n.total()
            body = {**BODY, "n_predict": n, "ignore_eos": True, "stream": True}
            assert (await client.post("/completion", json=body)).text.count(f'"tokens_predicted":{n}') == 1
            calls.append(llamafw_count.n.total() - before)
    assert calls[0] == calls[1] > 0
