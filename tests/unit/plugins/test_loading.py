"""Plugins are found, loaded in a defined order, checked, blocked and listed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import Distribution, version
from pathlib import Path
from typing import Any

import pytest

from llamafw import API_VERSION
from llamafw.errors import PluginError, SettingsError
from llamafw.plugins import Plugins, discover
from llamafw.registry import Registry
from support.distributions import Site

VERSION = version("llamafw")
GOOD = """
from llamafw import hookimpl

class Twice:
    options = {}
    truncates = False
    @classmethod
    def create(cls, options, context):
        return None

@hookimpl
def register_samplers(register):
    register("twice", Twice)
"""


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_builtin_plugins_are_loaded_first() -> None:
    plugins = Plugins()
    assert all(name.startswith("llamafw:") for name in list(plugins.records)[:7])
    assert {"top_k", "top_p", "min_p", "typ_p", "temperature", "penalties"} <= set(plugins.registry("sampler"))
    assert "llama" in plugins.registry("architecture")
    assert "numba" in plugins.registry("backend")
    assert {"gpt2", "llama"} <= set(plugins.registry("tokenizer"))
    assert plugins.records["llamafw:samplers"].registered["sampler"]


def test_plugins_are_loaded_in_order_and_called_in_reverse(site: Site, tmp_path: Path) -> None:
    """The order is built-in plugins, installed ones by name, files; hooks with one answer call them in reverse."""
    code = "from llamafw import hookimpl\n@hookimpl\ndef create_engine(): return called.append({0!r})\n"
    names = [site.install(f"llamafw-{name}", code.format(name)) for name in ("zebra", "ant")]
    files = [write(tmp_path / f"{name}.py", code.format(name)) for name in ("y", "b")]
    plugins = Plugins(extra=files)
    assert [name for name in plugins.records if not name.startswith("llamafw:")] == [*sorted(names), *files]

    called: list[str] = []
    for name in (*names, *files):
        plugin: Any = plugins.pm.get_plugin(name)
        plugin.called = called
    assert plugins.call_first("create_engine", model=None, tokenizer=None, settings=None, finished=None) is None
    assert called == ["b", "y", "zebra", "ant"]


def test_a_file_can_be_a_plugin(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", GOOD)
    plugins = Plugins(extra=[path])
    assert plugins.registry("sampler").owner("twice") == path
    assert plugins.records[path].hooks == ["register_samplers"]


COUNTER = """
from __future__ import annotations
from dataclasses import dataclass
from llamafw import App, hookimpl

requires_api = ">=1.0,<2"

@dataclass
class Counter:
    n: int = 0

    @hookimpl
    def server_started(self, app: App) -> None:
        self.n += 1
"""


def test_a_file_with_one_class_of_hooks_is_an_object_of_it(tmp_path: Path) -> None:
    path = write(tmp_path / "counter.py", COUNTER)
    plugins, others = Plugins(extra=[path]), Plugins(extra=[path])
    plugins.notify("server_started", app=None)
    assert [vars(loaded.pm.get_plugin(path)) for loaded in (plugins, others)] == [{"n": 1}, {"n": 0}]
    assert plugins.records[path].hooks == ["server_started"]
    assert plugins.records[path].requires_api == ">=1.0,<2"


def test_an_entry_point_can_name_a_module_with_one_class_of_hooks(site: Site) -> None:
    name = site.install("llamafw-counter", COUNTER + "\nalias = Counter\n")
    assert Plugins(strict=True).records[name].hooks == ["server_started"]


def test_hook_functions_of_a_module_take_precedence_over_its_classes(tmp_path: Path) -> None:
    function = "\n@hookimpl\ndef server_stopping(app): pass\n"
    path = write(tmp_path / "both.py", COUNTER + function)
    assert Plugins(extra=[path]).records[path].hooks == ["server_stopping"]


def test_imported_classes_of_hooks_are_not_the_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "imported_counter.py", COUNTER)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = write(tmp_path / "mine.py", "from imported_counter import Counter\n")
    with pytest.raises(PluginError, match="it implements no hook"):
        Plugins(extra=[path])


def test_a_plugin_can_be_blocked() -> None:
    plugins = Plugins(block=["samplers"])
    assert plugins.records["llamafw:samplers"].state == "blocked"
    assert "top_k" not in plugins.registry("sampler")


def test_a_file_can_be_blocked(tmp_path: Path) -> None:
    path = write(tmp_path / "broken.py", "1 / 0")
    assert Plugins(extra=[path], block=[path]).records[path].state == "blocked"


def test_blocking_an_unknown_plugin_is_an_error() -> None:
    with pytest.raises(SettingsError, match="did you mean 'samplers'"):
        Plugins(block=["sampler"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_like_this", "ModuleNotFoundError"),
        ("1 / 0", "ZeroDivisionError"),
        (GOOD.replace("register_samplers", "register_sampler"), "did you mean 'register_samplers'"),
        (GOOD.replace('"twice"', '"top_k"'), "registered by both llamafw:samplers and"),
        (GOOD.replace('register("twice", Twice)', "1 / 0"), "failed in register_samplers"),
        (GOOD.replace("(register)", "(register, wrong)"), "wrong"),
        (
            GOOD.replace("@hookimpl", "@hookimpl(wrapper=True)").replace("register(", "yield; register("),
            "it wraps 'register_samplers', but only hooks that return the first answer can be wrapped",
        ),
    ],
)
def test_a_failed_plugin_is_named_with_the_flag_that_blocks_it(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "broken.py", text)
    with pytest.raises(PluginError, match="--no-plugin") as caught:
        Plugins(extra=[path])
    assert message in str(caught.value)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wanted", [">=1.0,<2", "==1.*", f"=={API_VERSION}"])
def test_a_satisfied_requires_api_is_recorded(tmp_path: Path, wanted: str) -> None:
    path = write(tmp_path / "fits.py", f"requires_api = {wanted!r}\n{GOOD}")
    assert Plugins(extra=[path]).records[path].requires_api == wanted


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (">=99", f"llamafw-old 0.3 requires API >=99 of llamafw, and llamafw {VERSION} has API {API_VERSION}"),
        ("<1", f"requires API <1 of llamafw, and llamafw {VERSION} has API {API_VERSION}"),
        ("soon", "its requires_api is 'soon', not a specifier such as '>=1.0,<2'"),
        (1, "its requires_api is 1, not a specifier"),
    ],
)
def test_an_unsatisfied_requires_api_names_both_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: object, message: str
) -> None:
    (tmp_path / "llamafw_old.py").write_text(f"requires_api = {wanted!r}\nnot_a_hook_any_more = 1\n")
    info = tmp_path / "llamafw_old-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llamafw-old\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text("[llamafw]\nold = llamafw_old\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PluginError) as caught:
        Plugins(strict=True)
    assert message in str(Plugins().records["llamafw-old:old"].error)
    sys.modules.pop("llamafw_old", None)
    assert message in str(caught.value)
    assert str(caught.value).startswith("plugin llamafw-old:old cannot be loaded: ")
    assert "--no-plugin llamafw-old:old" in str(caught.value)


@pytest.mark.parametrize("stated", ["class", "module"])
def test_requires_api_is_checked_before_a_class_is_instantiated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stated: str
) -> None:
    line = 'requires_api = ">=99"\n'
    made = "    def __init__(self): 1 / 0\n"
    (tmp_path / "llamafw_new.py").write_text(
        f"class Plugin:\n    {line}{made}" if stated == "class" else f"{line}class Plugin:\n{made}"
    )
    info = tmp_path / "llamafw_new-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llamafw-new\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[llamafw]\nnew = llamafw_new:Plugin\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    record = Plugins().records["llamafw-new:new"]
    sys.modules.pop("llamafw_new", None)
    assert "llamafw-new 1 requires API >=99 of llamafw" in str(record.error)


def test_api_version_is_semantic() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", API_VERSION)
    assert f"API {API_VERSION} " in llamafw("version").stdout


ADD_PORT = """
from llamafw import hookimpl

@hookimpl
def add_options(parser):
    parser.add_argument("--port")
"""


def test_a_flag_that_exists_already_names_the_plugin(tmp_path: Path) -> None:
    path = write(tmp_path / "flags.py", ADD_PORT)
    result = llamafw("serve", "--help", "--plugin", path)
    assert result.returncode == 1
    assert f"the flag --port is added by both llamafw and {path}" in result.stderr
    assert "Traceback" not in result.stderr


def test_tolerant_loading_records_the_error(tmp_path: Path) -> None:
    path = write(tmp_path / "broken.py", "1 / 0")
    plugins = Plugins(extra=[path], tolerant=True)
    assert "ZeroDivisionError" in str(plugins.records[path].error)
    assert "top_k" in plugins.registry("sampler")


def test_discovery_does_not_parse_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """``Distribution.metadata`` parses the whole file, README included, at each access."""

    def metadata(self: Distribution) -> None:
        raise AssertionError("the metadata was parsed")

    monkeypatch.setattr(Distribution, "metadata", property(metadata))
    assert {plugin.version for plugin in discover() if plugin.distribution == "llamafw"} == {VERSION}


def test_every_builtin_package_is_an_entry_point() -> None:
    names = {plugin.name for plugin in discover()}
    expected = {"architectures", "chat_formats", "endpoints", "numba", "quants", "samplers", "tokenizers"}
    assert {f"llamafw:{name}" for name in expected} <= names


def test_the_registry_suggests_similar_names() -> None:
    registry = Registry("command")
    registry.add("hello", print, owner="a")
    assert "hello" in registry.suggest("helo")


def llamafw(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "llamafw", *argv], capture_output=True, text=True, check=False)


def test_listing_as_json_has_what_each_plugin_registered(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", GOOD)
    result = llamafw("plugins", "--json", "--plugin", path)
    found = {info["name"]: info for info in json.loads(result.stdout)}
    assert result.returncode == 0
    assert found[path]["kinds"] == {"sampler": ["twice"]}
    assert found["llamafw:numba"]["kinds"] == {"backend": ["numba"]}


def test_listing_shows_load_errors_and_exits_1(tmp_path: Path) -> None:
    path = write(tmp_path / "broken.py", "1 / 0")
    result = llamafw("plugins", "--plugin", path)
    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stdout


def test_listing_shows_a_plugin_that_fails_in_extend_openapi(tmp_path: Path) -> None:
    path = write(tmp_path / "broken.py", "from llamafw import hookimpl\n@hookimpl\ndef extend_openapi(): 1 / 0\n")
    result = llamafw("plugins", "--plugin", path)
    assert result.returncode == 1
    assert "llamafw:samplers" in result.stdout
    assert f"plugin {path} failed in extend_openapi: ZeroDivisionError" in result.stdout
    assert "Traceback" not in result.stderr
