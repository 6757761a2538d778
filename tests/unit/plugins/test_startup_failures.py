"""Plugins that fail before the server listens: they are disabled, or start-up fails."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamafw import PluginError, Settings, SettingsError
from llamafw.cli.plugin_flags import collect_plugin_flags
from llamafw.cli.read_settings import load_plugins, parse_early_flags
from llamafw.plugins import Plugins
from llamafw.server.app import build_app
from support import api
from support.broken_plugins import BODY, IMPORT, OPERATION, SAMPLER, failure_counts, hook_code
from support.distributions import Site

pytestmark = pytest.mark.slow


def build_document(plugins: Plugins) -> Any:
    """Return the API document of a server with these plugins and the built-in ones."""
    return build_app(Settings(), plugins, api.load)[1].document


def run(site: Site, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run ``llamafw`` where the distributions of the site are installed.

    Lines about slow imports and hooks, which a busy machine adds, are left out of stderr.
    """
    command = [sys.executable, "-m", "llamafw", *argv]
    environ = {"PYTHONPATH": str(site.folder)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    lines = done.stderr.splitlines(keepends=True)
    done.stderr = "".join(line for line in lines if not re.search(r" took \d+ ms in (its import|\w+)$", line))
    return done


@pytest.mark.parametrize(
    ("code", "place", "message"),
    [
        ("1 / 0", "import", "cannot be loaded: ZeroDivisionError: division by zero (llamafw_bad.py:1)"),
        ("import json\njson.loads('x')\n", "import", "line 1 column 1 (char 0) (llamafw_bad.py:2)"),
        ("def broken(:\n", "import", "SyntaxError: invalid syntax (llamafw_bad.py, line 1)"),
        (IMPORT + SAMPLER + "import sys; sys.exit()", "import", "cannot be loaded: SystemExit"),
        (IMPORT + hook_code("no_such_hook"), "import", "'no_such_hook', which is not a hook"),
        (IMPORT, "import", "it implements no hook; mark its hook functions with @llamafw.hookimpl"),
        (IMPORT + SAMPLER + hook_code("register_backends", "register"), "registration", "failed in register_backends"),
        (IMPORT + SAMPLER + hook_code("extend_openapi"), "startup", "failed in extend_openapi"),
        (
            IMPORT + SAMPLER + OPERATION.replace('register("getBad", bad)', "1 / 0"),
            "registration",
            "failed in register_endpoints",
        ),
        (
            IMPORT + SAMPLER + OPERATION.replace("responses", "answers"),
            "startup",
            "document is not valid at paths./bad",
        ),
        (
            IMPORT + SAMPLER + OPERATION.replace("InternalError", "Nothing"),
            "startup",
            "refers to #/components/responses/Nothing, which does not exist",
        ),
        (
            IMPORT + SAMPLER + OPERATION.replace("#/components", "x.yaml#/components"),
            "startup",
            "refers to x.yaml#/comp",
        ),
        (
            IMPORT + SAMPLER + hook_code("extend_openapi", body="return {'paths': ['/bad']}"),
            "startup",
            "not valid at paths: ",
        ),
        (
            IMPORT + SAMPLER.replace("string", "text") + OPERATION,
            "startup",
            "'bad' of plugin llamafw-bad:bad is not a valid JSON Schema",
        ),
        (
            IMPORT + SAMPLER + OPERATION + hook_code("register_fields", "register", "register('good', 7)"),
            "startup",
            "the field 'good' of plugin llamafw-bad:bad is not a valid JSON Schema",
        ),
        (
            IMPORT + SAMPLER + hook_code("register_fields", "register", "register('bad', 7)"),
            "startup",
            "is not a valid JSON Schema",
        ),
    ],
)
def test_a_failed_plugin_is_disabled_with_all_it_registered(
    site: Site, caplog: pytest.LogCaptureFixture, code: str, place: str, message: str
) -> None:
    name = site.install("llamafw-bad", code)
    good = site.install("llamafw-good", IMPORT + SAMPLER.replace("bad", "good"))
    plugins = Plugins()
    document = build_document(plugins)
    record = plugins.records[name]
    fields = document["components"]["schemas"]["GenerationOptions"]["properties"]
    assert record.state == "failed"
    assert message in str(record.error)
    assert "bad" not in plugins.registry("sampler")
    assert "/bad" not in document["paths"]
    assert "bad" not in fields
    assert plugins.records[good].state == "active"
    assert "good" in fields
    assert plugins.failures.counts == {(name, place): 1}

    (entry,) = [entry for entry in caplog.records if entry.levelno >= logging.ERROR]
    assert entry.getMessage().startswith(f"plugin {name} ")
    assert entry.getMessage().endswith(f"; the plugin is disabled (use --no-plugin {name} to hide this message)")
    assert entry.exc_info is None


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "code",
    [
        "1 / 0",
        IMPORT,
        IMPORT + hook_code("register_samplers", "register"),
        IMPORT + hook_code("extend_openapi"),
        IMPORT + hook_code("extend_openapi", body="return 'x'"),
        IMPORT + SAMPLER.replace("string", "text"),
    ],
)
def test_startup_fails_if_strict_or_if_the_plugin_was_named(site: Site, code: str, strict: bool) -> None:
    name = site.install("llamafw-bad", code)
    with pytest.raises(PluginError, match=f"^plugin {name} .*; use --no-plugin {name} to start without it$"):
        build_document(Plugins(strict=True) if strict else Plugins(extra=["bad"]))


def test_startup_fails_if_the_plugin_has_settings(site: Site, tmp_path: Path) -> None:
    name = site.install("llamafw-bad", "1 / 0")
    config = tmp_path / "c.toml"
    config.write_text("[plugin.bad]\nsecret = 'x'\n")
    for argv in (["--config", str(config)], ["--plugin-option", "llamafw-bad.secret=x"]):
        with pytest.raises(PluginError, match=f"plugin {name} cannot be loaded"):
            load_plugins(parse_early_flags(argv)[0])
    assert load_plugins(parse_early_flags([])[0]).records[name].state == "failed"


def test_the_traceback_of_a_disabled_plugin_is_logged_at_debug_level(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.install("llamafw-bad", "1 / 0")
    with caplog.at_level(logging.DEBUG, logger="llamafw.plugins"):
        plugins = Plugins()
        plugins.log_disabled()
        plugins.log_disabled()
    (entry,) = [entry for entry in caplog.records if entry.levelno >= logging.ERROR]
    assert entry.exc_info is not None
    assert "Traceback" in caplog.text


def test_an_unknown_flag_is_reported_after_the_disabled_plugins(site: Site) -> None:
    name = site.install("llamafw-bad", "1 / 0")
    done = run(site, "serve", "--bad-keys", "users.txt")
    first, last = done.stderr.splitlines()
    assert first.startswith(f"plugin {name} cannot be loaded: ZeroDivisionError")
    assert "--bad-keys" in last
    assert done.returncode == 2


@pytest.mark.parametrize(
    "guard", [hook_code("wrap_asgi", "asgi, app"), hook_code("register_authenticators", "register, app")]
)
def test_startup_fails_if_a_guard_fails(site: Site, guard: str) -> None:
    name = site.install("llamafw-guard", IMPORT + guard)
    with pytest.raises(PluginError, match=f"plugin {name} failed in "):
        build_document(Plugins())


@pytest.mark.parametrize(
    "code",
    [
        hook_code("wrap_asgi", "asgi, app").replace("def", "async def"),
        hook_code("wrap_asgi", "asgi, server"),
        "requires_api = '>=9'\n" + hook_code("register_authenticators", "register, app"),
    ],
)
def test_startup_fails_if_a_guard_cannot_be_loaded(site: Site, code: str) -> None:
    name = site.install("llamafw-guard", IMPORT + code)
    with pytest.raises(PluginError, match=f"plugin {name} cannot be loaded: "):
        Plugins()


def test_startup_fails_if_a_guard_fails_in_another_hook(site: Site) -> None:
    guard = hook_code("wrap_asgi", "asgi, app", "return None")
    name = site.install("llamafw-guard", IMPORT + guard + hook_code("extend_openapi"))
    with pytest.raises(PluginError, match=f"plugin {name} failed in extend_openapi"):
        build_document(Plugins())


def test_startup_fails_if_a_plugin_refuses_a_setting(site: Site) -> None:
    refuse = 'import llamafw; raise llamafw.SettingsError("--bad: no")'
    site.install("llamafw-bad", IMPORT + hook_code("extend_openapi", body=refuse))
    with pytest.raises(SettingsError, match=r"^--bad: no$"):
        build_document(Plugins())


def test_startup_fails_if_two_plugins_register_one_name(site: Site) -> None:
    for name in ("llamafw-a", "llamafw-b"):
        site.install(name, IMPORT + SAMPLER)
    with pytest.raises(PluginError, match="^sampler 'bad' is registered by both llamafw-a:a and llamafw-b:b"):
        Plugins()
    assert Plugins(tolerant=True).records["llamafw-b:b"].state == "failed"


def test_a_plugin_that_fails_in_add_options_is_disabled(site: Site) -> None:
    name = site.install("llamafw-bad", IMPORT + SAMPLER + hook_code("add_options", "parser"))
    plugins = Plugins()
    assert f"plugin {name}" not in {parser._optionals.title for parser in collect_plugin_flags(plugins)}
    assert plugins.records[name].state == "failed"
    assert "bad" not in plugins.registry("sampler")
    assert plugins.failures.counts == {(name, "startup"): 1}


def test_commands_continue_without_a_failed_plugin(site: Site) -> None:
    name = site.install("llamafw-bad", "1 / 0")
    done = run(site, "spec")
    assert done.returncode == 0
    assert "openapi: 3.0.3" in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"plugin {name} cannot be loaded: ZeroDivisionError")

    for argv in (("--plugin-strict",), ("--plugin", "bad")):
        done = run(site, "spec", *argv)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert f"plugin {name} cannot be loaded: ZeroDivisionError" in line
    assert run(site, "spec", "--no-plugin", "bad").stderr == ""


def test_an_invalid_fragment_is_one_line(site: Site) -> None:
    site.install("llamafw-bad", IMPORT + hook_code("extend_openapi", body="return 7"))
    (line,) = run(site, "spec").stderr.splitlines()
    assert line.startswith("plugin llamafw-bad:bad cannot be used: extend_openapi must return a mapping, not 7;")


# --- while a model loads


async def test_the_plugin_of_a_failed_factory_is_named(
    site: Site, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    factory = "def make(context): 1 / 0\n"
    name = site.install(
        "llamafw-bad", IMPORT + factory + hook_code("register_backends", "register", "register('bad', make)")
    )
    with pytest.raises(ZeroDivisionError):
        async with serve(backend="bad"):
            pass
    (entry,) = [entry for entry in caplog.records if entry.levelno >= logging.ERROR]
    assert "cannot load the model" in entry.getMessage()
    assert name in entry.getMessage()
    assert "ZeroDivisionError" in entry.getMessage()


async def test_a_plugin_that_fails_while_a_model_loads_is_skipped(
    site: Site, serve: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    hooks = {"open_model": "path", "choose_chat_format": "model", "create_engine": "model"}
    name = site.install("llamafw-bad", IMPORT + "".join(hook_code(each, given) for each, given in hooks.items()))
    async with serve(metrics=True) as client:
        assert (await client.post("/completion", json={**BODY, "n_predict": 1})).status_code == 200
        assert await failure_counts(client) == {(name, "startup"): 3}
    errors = [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.ERROR]
    assert [message.partition(":bad")[2].partition(" (")[0] for message in errors] == [
        f" failed in {each}: ZeroDivisionError: division by zero" for each in hooks
    ]

    with pytest.raises(PluginError, match=f"plugin {name} failed in open_model"):
        async with serve(plugin_strict=True):
            pass
