"""``GET /plugins`` and ``llamafw plugins`` list every plugin, also those that failed or are blocked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from llamafw import API_VERSION, __version__
from support.distributions import Site

CODE = """
from llamafw import hookimpl

requires_api = ">=1.0"
plugin_options = {"limit": {"type": "integer", "default": 60, "description": "A limit."}}

class S:
    options = {"heat": {"type": "number", "minimum": 0, "default": 0, "description": "x"}}
    truncates = False
    @classmethod
    def create(cls, options, context): return None

@hookimpl
def configure(options): pass

@hookimpl
def register_samplers(register): register("s", S)

@hookimpl
def register_fields(register): register("f", {"type": "string", "description": "x"})
"""


async def test_the_server_lists_its_plugins(site: Site, serve: Callable[..., Any]) -> None:
    name, bad = site.install("llamafw-x", CODE, "1.2"), site.install("llamafw-bad", "raise OSError('/secret/place')")
    async with serve(no_plugin=("webui",)) as client:
        response = await client.get("/plugins")
        listing = response.json()
    assert (listing["version"], listing["api_version"]) == (__version__, API_VERSION)
    found = {info["name"]: info for info in listing["plugins"]}
    load_ms = found[name].pop("load_ms")
    assert load_ms > 0
    fields = found[name].pop("request_fields")
    assert sorted(fields) == ["f", "heat"]
    assert fields["heat"]["minimum"] == 0
    assert found[name] == {
        "name": name,
        "distribution": "llamafw-x",
        "version": "1.2",
        "state": "active",
        "requires_api": ">=1.0",
        "kinds": {"sampler": ["s"], "field": ["f"]},
        "hooks": ["configure", "register_fields", "register_samplers"],
        "options": {"limit": {"type": "integer", "default": 60, "description": "A limit."}},
    }
    assert (found[bad]["state"], found[bad]["kinds"], found["llamafw:webui"]["state"]) == ("failed", {}, "blocked")
    assert "listPlugins" in found["llamafw:endpoints"]["kinds"]["endpoint"]
    assert "secret" not in response.text


async def test_the_list_needs_an_api_key_like_other_operations(serve: Callable[..., Any]) -> None:
    async with serve(api_key=("k",)) as client:
        assert (await client.get("/plugins")).status_code == 401
        assert (await client.get("/plugins", headers={"authorization": "Bearer k"})).status_code == 200


def test_the_command_also_prints_why_a_plugin_failed(site: Site) -> None:
    site.install("llamafw-x", CODE, "1.2")
    site.install("llamafw-bad", "raise OSError('/secret/place')")

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "llamafw", "plugins", *argv],
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONPATH": str(site.folder)},
        )

    listing = run("--json", "--no-plugin", "webui")
    infos = json.loads(listing.stdout)
    found = {info["distribution"]: info for info in infos if info["distribution"] != "llamafw"}
    assert listing.returncode == 1
    assert "/secret/place" in found["llamafw-bad"]["error"]
    assert found["llamafw-x"]["request_fields"]["heat"]["minimum"] == 0
    assert found["llamafw-x"]["options"]["limit"]["default"] == 60
    text = run("--no-plugin", "llamafw-bad").stdout
    assert "\nllamafw-bad:bad 1.0 (blocked, 0 ms)\n" in text
    assert "\nllamafw-x:x 1.2 (active, " in text
    assert " ms, API >=1.0)\n  sampler: s\n  field: f\n" in text
    assert '  option limit: A limit. {"type": "integer", "default": 60}\n' in text
    assert '  request field heat: x {"type": "number", "minimum": 0, "default": 0}\n' in text
    assert run("--no-plugin", "llamafw-bad").returncode == 0
