"""A plugin that fails hurts only what it serves: at import, registration, start-up, request, per token, in events."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from llamafw import PluginError, Settings, SettingsError
from llamafw.cli.parser import load_plugins, split_plugin_flags
from llamafw.cli.plugin_flags import plugin_flags
from llamafw.plugins import Plugins, slow
from llamafw.server.app import build_app
from support import api
from support.distributions import Site

HEAD = "from llamafw import hookimpl\n"
SAMPLER = """
class Bad:
    options = {"bad": {"type": "string", "default": "", "description": "where to fail"}}
    truncates = False
    def __init__(self, where): self.where = where
    @classmethod
    def create(cls, options, context):
        if options["bad"] == "create": raise ZeroDivisionError("secret")
        return cls(options["bad"]) if options["bad"] else None
    def apply(self, candidates):
        if self.where == "apply": raise ZeroDivisionError("secret")
    def accept(self, token):
        if self.where == "accept": raise ZeroDivisionError("secret")

@hookimpl
def register_samplers(register): register("bad", Bad)
"""
OPERATION = """
API = {"paths": {"/bad": {"get": {"operationId": "getBad", "security": [], "summary": "x", "responses": {
    "200": {"description": "ok", "content": {"application/json": {"schema": {"type": "object"}}}},
    "500": {"$ref": "#/components/responses/InternalError"}}}}}}

@hookimpl
def extend_openapi(): return API

@hookimpl
def register_endpoints(register, app): register("getBad", bad)

async def bad(call): 1 / 0
"""


def hook(name: str, arguments: str = "", body: str = "1 / 0") -> str:
    return f"@hookimpl\ndef {name}({arguments}): {body}\n"


def built(plugins: Plugins) -> Any:
    """The API document of a server with these plugins and the built-in ones."""
    return build_app(Settings(), plugins, api.load)[1].document


# --- before the server listens


@pytest.mark.parametrize(
    ("code", "place", "words"),
    [
        ("1 / 0", "import", "cannot be loaded: ZeroDivisionError"),
        (HEAD + hook("no_such_hook"), "import", "'no_such_hook', which is no hook"),
        (HEAD + SAMPLER + hook("register_backends", "register"), "registration", "failed in register_backends"),
        (HEAD + SAMPLER + hook("extend_openapi"), "startup", "failed in extend_openapi"),
        (
            HEAD + SAMPLER + OPERATION.replace('register("getBad", bad)', "1 / 0"),
            "registration",
            "failed in register_endpoints",
        ),
        (HEAD + SAMPLER + OPERATION.replace("responses", "answers"), "startup", "document is not valid at paths./bad"),
        (
            HEAD + SAMPLER + OPERATION.replace("InternalError", "Nothing"),
            "startup",
            "refers to #/components/responses/Nothing, which is not there",
        ),
        (HEAD + SAMPLER + OPERATION.replace("#/components", "x.yaml#/components"), "startup", "refers to x.yaml#/comp"),
        (HEAD + SAMPLER + "import sys; sys.exit()", "import", "cannot be loaded: SystemExit"),
        (HEAD + SAMPLER + hook("extend_openapi", body="return {'paths': ['/bad']}"), "startup", "not valid at paths: "),
        (HEAD + SAMPLER.replace("string", "text") + OPERATION, "startup", "'bad' of plugin llamafw-bad:bad is no JSON"),
        (
            HEAD + SAMPLER + OPERATION + hook("register_fields", "register", "register('good', 7)"),
            "startup",
            "the field 'good' of plugin llamafw-bad:bad is no JSON Schema",
        ),
        (HEAD + SAMPLER + hook("register_fields", "register", "register('bad', 7)"), "startup", "is no JSON Schema"),
    ],
)
def test_an_installed_plugin_that_fails_is_left_out_with_all_it_had(
    site: Site, caplog: pytest.LogCaptureFixture, code: str, place: str, words: str
) -> None:
    name = site.install("llamafw-bad", code)
    good = site.install("llamafw-good", HEAD + SAMPLER.replace("bad", "good"))
    plugins = Plugins()
    document = built(plugins)
    found = plugins.found[name]
    assert found.state == "failed"
    assert words in str(found.error)
    assert "bad" not in plugins.registry("sampler")
    assert "/bad" not in document["paths"]
    assert "bad" not in document["components"]["schemas"]["GenerationOptions"]["properties"]
    assert plugins.found[good].state == "active"
    assert "good" in document["components"]["schemas"]["GenerationOptions"]["properties"]
    assert plugins.blame.failures == {(name, place): 1}
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert f"left out: plugin {name} " in record.getMessage()
    assert f"--no-plugin {name}" in record.getMessage()


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "code",
    [
        "1 / 0",
        HEAD + hook("register_samplers", "register"),
        HEAD + hook("extend_openapi"),
        HEAD + hook("extend_openapi", body="return 'x'"),
        HEAD + SAMPLER.replace("string", "text"),
    ],
)
def test_it_ends_the_start_if_strict_or_asked_for_by_name(site: Site, code: str, strict: bool) -> None:
    name = site.install("llamafw-bad", code)
    with pytest.raises(PluginError, match=f"plugin {name} "):
        built(Plugins(strict=True) if strict else Plugins(extra=["bad"]))


def test_it_ends_the_start_if_it_was_set_up_for_who_does_relies_on_it(site: Site, tmp_path: Path) -> None:
    name = site.install("llamafw-bad", "1 / 0")
    config = tmp_path / "c.toml"
    config.write_text("[plugin.bad]\nsecret = 'x'\n")
    for argv in (["--config", str(config)], ["--plugin-option", "llamafw-bad.secret=x"]):
        with pytest.raises(PluginError, match=f"plugin {name} cannot be loaded"):
            load_plugins(split_plugin_flags(argv)[0])
    assert load_plugins(split_plugin_flags([])[0]).found[name].state == "failed"


def test_a_flag_of_a_plugin_that_was_left_out_says_so(site: Site) -> None:
    name = site.install("llamafw-bad", "1 / 0")
    command = [sys.executable, "-m", "llamafw", "serve", "--bad-keys", "users.txt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(site.folder)})
    first, last = done.stderr.splitlines()
    assert first.startswith(f"left out: plugin {name} cannot be loaded: ZeroDivisionError")
    assert last.startswith("llamafw: serve: unknown flag --bad-keys")
    assert done.returncode == 1


def test_a_guard_that_fails_ends_the_start_for_without_it_the_door_would_be_open(site: Site) -> None:
    name = site.install("llamafw-guard", HEAD + hook("wrap_asgi", "asgi, app"))
    with pytest.raises(PluginError, match=f"plugin {name} failed in wrap_asgi"):
        built(Plugins())
    site.install("llamafw-other-guard", HEAD + hook("wrap_asgi", "asgi", "return None") + hook("extend_openapi"))
    with pytest.raises(PluginError, match="plugin llamafw-other-guard:other-guard failed in extend_openapi"):
        built(Plugins(block=["guard"]))


def test_a_setting_that_is_wrong_ends_the_start_whoever_refuses_it(site: Site) -> None:
    raising = 'import llamafw; raise llamafw.SettingsError("--bad: no")'
    site.install("llamafw-bad", HEAD + hook("extend_openapi", body=raising))
    with pytest.raises(SettingsError, match="--bad: no"):
        built(Plugins())


def test_two_that_want_the_same_name_end_the_start(site: Site) -> None:
    for name in ("llamafw-a", "llamafw-b"):
        site.install(name, HEAD + SAMPLER)
    with pytest.raises(PluginError, match="sampler 'bad' is registered by both llamafw-a:a and llamafw-b:b"):
        Plugins()
    assert Plugins(tolerant=True).found["llamafw-b:b"].state == "failed"


def test_flags_that_fail_are_left_out_too(site: Site) -> None:
    name = site.install("llamafw-bad", HEAD + SAMPLER + hook("add_options", "parser"))
    plugins = Plugins()
    assert not plugin_flags(plugins)
    assert (plugins.found[name].state, "bad" in plugins.registry("sampler")) == ("failed", False)
    assert plugins.blame.failures == {(name, "startup"): 1}


def test_a_command_goes_on_without_it_and_says_so(site: Site) -> None:
    name = site.install("llamafw-bad", "1 / 0")

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        environ = {"PYTHONPATH": str(site.folder)}
        return subprocess.run(
            [sys.executable, "-m", "llamafw", "spec", *argv], capture_output=True, text=True, check=False, env=environ
        )

    done = run()
    assert (done.returncode, "openapi: 3.0.3" in done.stdout) == (0, True)
    assert f"left out: plugin {name} cannot be loaded: ZeroDivisionError" in done.stderr
    for argv in (("--plugin-strict",), ("--plugin", "bad")):
        done = run(*argv)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"llamafw: plugin {name} cannot be loaded: ZeroDivisionError")
    assert run("--no-plugin", "bad").stderr == ""
    site.install("llamafw-no-fragment", HEAD + hook("extend_openapi", body="return 7"))
    (line,) = run("--no-plugin", "bad").stderr.splitlines()
    assert line.startswith("left out: plugin llamafw-no-fragment:no-fragment cannot be used: extend_openapi returned 7")


# --- while a model loads


async def test_a_factory_that_fails_is_named(
    site: Site, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    name = site.install(
        "llamafw-bad",
        HEAD + "def make(context): 1 / 0\n" + hook("register_backends", "register", "register('bad', make)"),
    )
    with pytest.raises(ZeroDivisionError):
        async with serve(backend="bad"):
            pass
    assert f"cannot load the model, plugin {name} failed: ZeroDivisionError" in caplog.text


async def test_a_plugin_that_fails_while_a_model_loads_is_asked_no_more(
    site: Site, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    hooks = {"open_model": "path", "create_engine": "model", "choose_chat_format": "model"}
    name = site.install("llamafw-bad", HEAD + "".join(hook(each, given) for each, given in hooks.items()))
    async with serve(metrics=True) as client:
        assert (await client.post("/completion", json={"prompt": "a", "n_predict": 1})).status_code == 200
        assert await failures(client) == {(name, "startup"): 3}
    assert all(f"plugin {name} failed in {each}" in caplog.text for each in hooks)
    with pytest.raises(PluginError, match=f"plugin {name} failed in open_model"):
        async with serve(plugin_strict=True):
            pass


# --- requests


async def failures(client: httpx.AsyncClient) -> dict[tuple[str, str], float]:
    text = (await client.get("/metrics")).text
    family = next(one for one in text_string_to_metric_families(text) if one.name == "llamafw_plugin_failures")
    return {(sample.labels["plugin"], sample.labels["place"]): sample.value for sample in family.samples}


def told(response: httpx.Response, name: str) -> str:
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"], error["plugin"]) == (500, 500, "plugin_error", name)
    assert "secret" not in response.text
    return str(error["message"])


BODY = {"prompt": "Hello", "n_predict": 4, "seed": 1}


@pytest.mark.parametrize(
    "code",
    [
        OPERATION,
        hook("prepare_request", "body", "return 1 / 0 if 'bad' in body.get('stop', ()) else None"),
        "@hookimpl(wrapper=True)\ndef prepare_request(body):\n    request = yield\n"
        "    return 1 / 0 if 'bad' in body.get('stop', ()) else request\n",
        "class Wrapped:\n    def __init__(self, asgi): self.asgi = asgi\n"
        "    async def __call__(self, scope, receive, send):\n        if scope['path'] == '/bad': 1 / 0\n"
        "        await self.asgi(scope, receive, send)\n" + hook("wrap_asgi", "asgi", "return Wrapped(asgi)"),
    ],
    ids=["endpoint", "hook", "wrapper", "asgi"],
)
async def test_a_request_that_fails_in_a_plugin_says_so_and_others_do_not(
    site: Site, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture, code: str
) -> None:
    name = site.install("llamafw-bad", HEAD + code)
    async with serve(metrics=True) as client:

        async def bad() -> httpx.Response:
            if "prepare" in code:
                return await client.post("/completion", json={**BODY, "stop": ["bad"]})
            return await client.get("/bad")

        responses = await asyncio.gather(*(client.post("/completion", json=BODY) for _ in range(3)), bad())
        assert told(responses.pop(), name) == "internal server error"
        assert {response.status_code for response in responses} == {200}
        assert len({response.json()["content"] for response in responses}) == 1
        assert await failures(client) == {(name, "request"): 1}
    assert f"failed in plugin {name}" in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def test_an_answer_that_is_not_as_the_plugins_document_says_is_put_down_to_it(
    site: Site, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    name = site.install("llamafw-bad", HEAD + OPERATION.replace("1 / 0", "return 7"))
    async with serve(metrics=True) as client:
        message = told(await client.get("/bad"), name)
        assert message == "the response breaks the API document: it must be an object"
        assert await failures(client) == {(name, "request"): 1}
    assert f"the response of getBad, of plugin {name}, breaks the API document" in caplog.text


async def test_an_explanation_that_fails_explains_nothing(
    site: Site, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    name = site.install("llamafw-bad", HEAD + hook("explain_error", "error"))
    async with serve(metrics=True) as client:
        assert (await client.post("/completion", json={})).status_code == 400
        assert await failures(client) == {(name, "request"): 1}
    assert f"plugin {name} failed in explain_error" in caplog.text


async def test_news_reach_everybody_else(
    site: Site, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    events = {
        "server_started": "app",
        "model_loaded": "app",
        "request_finished": "finish",
        "model_unloaded": "app",
        "server_stopping": "app",
    }
    name = site.install("llamafw-bad", HEAD + "".join(hook(each, given) for each, given in events.items()))
    site.install(
        "llamafw-then",
        HEAD + "heard = []\n" + "".join(hook(each, given, f"heard.append('{each}')") for each, given in events.items()),
    )
    async with serve(metrics=True) as client:
        assert (await client.post("/completion", json=BODY)).status_code == 200
        assert await failures(client) == {(name, "event"): 3}
    import llamafw_then  # type: ignore[import-not-found]  # written above

    assert llamafw_then.heard == list(events)
    assert all(f"plugin {name} failed in {each}" in caplog.text for each in events)


# --- tokens


@pytest.mark.parametrize("where", ["create", "apply", "accept"])
async def test_a_sampler_that_fails_fails_its_own_request(
    site: Site, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture, where: str
) -> None:
    name = site.install("llamafw-bad", HEAD + SAMPLER)
    chain = {**BODY, "samplers": ["bad", "temperature"]}
    async with serve(metrics=True, parallel=4) as client:
        bodies = [chain, {**chain, "bad": where}, chain, {**chain, "bad": "nowhere"}]
        fine, bad, *others = await asyncio.gather(*(client.post("/completion", json=body) for body in bodies))
        assert told(bad, name) == "the sampler 'bad' failed"
        assert {response.json()["content"] for response in others} == {fine.json()["content"]}
        assert await failures(client) == {(name, "request" if where == "create" else "token"): 1}
    assert f"in plugin {name}" in caplog.text


BACKEND = """
from llamafw.testing.backend import DeterministicBackend

class Bad(DeterministicBackend):
    def forward(self, batch):
        if len(batch.positions) and batch.positions[-1] > 20: raise MemoryError("secret")
        return super().forward(batch)

@hookimpl
def register_backends(register): register("bad", Bad)
"""


async def test_a_backend_that_fails_fails_the_request_at_fault(
    site: Site, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    name = site.install("llamafw-bad", HEAD + BACKEND)
    async with serve(backend="bad", metrics=True, parallel=3) as client:
        bodies = [{**BODY, "ignore_eos": True, "n_predict": n} for n in (4, 60, 4)]
        fine, bad, too = await asyncio.gather(*(client.post("/completion", json=body) for body in bodies))
        assert told(bad, name) == "the model failed"
        assert fine.json()["content"] == too.json()["content"]
        assert await failures(client) == {(name, "token"): 1}
    assert f"in plugin {name}" in caplog.text


@pytest.mark.parametrize(
    "code",
    [
        (
            "class Bad:\n    source = 'x'\n    def render(self, messages, **more): 1 / 0\n"
            + hook("choose_chat_format", "model", "return Bad()")
        ),
        (
            "class Bad:\n    def compile(self, source): 1 / 0\n"
            + hook("register_grammars", "register", "register('bad', lambda context: Bad())")
            + "from dataclasses import replace\nfrom llamafw import GrammarSource\n@hookimpl(wrapper=True)\n"
            "def prepare_request(body):\n    return replace((yield), grammar=GrammarSource('bad', 'x'))\n"
        ),
        (
            "class Bad:\n    ended = False\n    def accept(self, token): 1 / 0\n    def mask(self, logits): 1 / 0\n"
            "class Makes:\n    def compile(self, source): return Bad()\n"
            + hook("register_grammars", "register", "register('bad', lambda context: Makes())")
            + "from dataclasses import replace\nfrom llamafw import GrammarSource\n@hookimpl(wrapper=True)\n"
            "def prepare_request(body):\n    return replace((yield), grammar=GrammarSource('bad', 'x'))\n"
        ),
    ],
    ids=["chat format", "compiler", "grammar"],
)
async def test_other_things_that_fail_are_put_down_to_their_plugin(
    site: Site, serve: Callable[..., Any], code: str
) -> None:
    name = site.install("llamafw-bad", HEAD + code)
    async with serve() as client:
        messages = [{"role": "user", "content": "Hello"}]
        told(await client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 2}), name)
        assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize("where", ["create", "apply", "accept", "forward", "endpoint", "chat format"])
async def test_what_ends_a_script_ends_no_server(site: Site, serve: Callable[..., Any], where: str) -> None:
    quits = "raise SystemExit('secret')"
    render = hook("choose_chat_format", "model", "return Rude()")
    code = (
        SAMPLER
        + BACKEND.replace("Bad", "Worse")
        + OPERATION
        + "class Rude:\n    source = 'x'\n    def render(self, messages, **more): 1 / 0\n"
        + render
    )
    code = code.replace('raise ZeroDivisionError("secret")', quits).replace('raise MemoryError("secret")', quits)
    name = site.install("llamafw-bad", HEAD + code.replace("1 / 0", quits))
    async with serve(backend="bad", metrics=True, parallel=2) as client:
        match where:
            case "endpoint":
                bad = client.get("/bad")
            case "chat format":
                bad = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hello"}]})
            case "forward":
                bad = client.post("/completion", json={**BODY, "ignore_eos": True, "n_predict": 60})
            case _:
                bad = client.post("/completion", json={**BODY, "samplers": ["bad", "temperature"], "bad": where})
        answer, fine = await asyncio.gather(bad, client.post("/completion", json=BODY))
        told(answer, name)
        assert fine.status_code == 200
        assert sum((await failures(client)).values()) == 1
        assert (await client.get("/health")).status_code == 200


async def test_in_a_stream_the_error_is_the_last_event(site: Site, serve: Callable[..., Any]) -> None:
    code = SAMPLER.replace('if self.where == "accept"', "self.n = getattr(self, 'n', 0) + 1\n        if self.n == 3")
    name = site.install("llamafw-bad", HEAD + code)
    async with serve() as client:
        body = {**BODY, "samplers": ["bad", "temperature"], "bad": "later", "stream": True}
        text = (await client.post("/completion", json=body)).text
        assert f'"plugin":"{name}"' in text.strip().rpartition("data: ")[2]
        assert text.count("data: ") == 3


async def test_no_hook_is_called_per_token(site: Site, serve: Callable[..., Any]) -> None:
    """Counted in plugins that implement all of them, whoever calls: two tokens cost as many calls as sixty."""
    from support.spy import HOOKS

    site.install(
        "llamafw-count",
        HEAD + "import collections, inspect\nfrom llamafw import hookspecs\n"
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


# --- time


class Clock:
    """Time that a plugin can spend without spending any."""

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
INNOCENT = """
from support.distributions import clock

@hookimpl(wrapper=True)
def prepare_request(body): return (yield)
"""


async def test_slow_hooks_are_reported_by_name_and_once(
    site: Site, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llamafw.plugins import manager
    from support import distributions

    clock = Clock()
    monkeypatch.setattr(distributions, "clock", clock, raising=False)
    for module in (slow, manager):
        monkeypatch.setattr(module, "perf_counter", clock)
    name = site.install("llamafw-slow", HEAD + SLOW)
    site.install("llamafw-a", HEAD + INNOCENT)
    site.install("llamafw-z", HEAD + INNOCENT)
    async with serve() as client:
        for _ in range(3):
            assert (await client.post("/completion", json=BODY)).status_code == 200
    messages = [record.getMessage() for record in caplog.records if record.name == "llamafw.plugins"]
    assert messages == [
        f"plugin {name} took 1000 ms in register_samplers",
        f"plugin {name} took 60 ms in prepare_request; no request moved meanwhile",
        f"plugin {name} took 200 ms in request_finished; no request moved meanwhile",
    ]


async def test_a_wrapper_that_is_timed_still_wraps(site: Site, serve: Callable[..., Any]) -> None:
    """What others raise comes in where it yields, and what it raises or returns comes out."""
    refuse = "\n    if 'refuse' in body.get('stop', ()): raise llamafw.RequestError('no')"
    site.install("llamafw-refuse", HEAD + "import llamafw\n" + hook("prepare_request", "body", refuse))
    site.install(
        "llamafw-wrap",
        HEAD
        + """
from dataclasses import replace
from llamafw import RequestError
@hookimpl(wrapper=True)
def prepare_request(body):
    try:
        request = yield
    except RequestError as error:
        raise RequestError("wrapped: " + error.message)
    return replace(request, n_predict=2)
""",
    )
    async with serve() as client:
        answer = (await client.post("/completion", json=BODY)).json()
        assert answer["tokens_predicted"] == 2
        refused = await client.post("/completion", json={**BODY, "stop": ["refuse"]})
        assert refused.json()["error"]["message"] == "wrapped: no"
