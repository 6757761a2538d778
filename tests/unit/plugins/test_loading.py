"""Finding, checking and refusing plugins."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import Distribution, version
from pathlib import Path

import pytest

from llamafw import API_VERSION
from llamafw.errors import PluginError
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


def test_built_ins_come_first_and_register() -> None:
    plugins = Plugins()
    assert all(name.startswith("llamafw:") for name in list(plugins.records)[:7])
    assert {"top_k", "top_p", "min_p", "typ_p", "temperature", "penalties"} <= set(plugins.registry("sampler"))
    assert "llama" in plugins.registry("architecture")
    assert "numba" in plugins.registry("backend")
    assert {"gpt2", "llama"} <= set(plugins.registry("tokenizer"))
    assert plugins.records["llamafw:samplers"].registered["sampler"]


def test_they_are_loaded_ours_first_then_by_name_then_as_they_were_given(site: Site, tmp_path: Path) -> None:
    """And those that want to give the one answer are asked the other way round, ours last."""
    code = "from llamafw import hookimpl\n@hookimpl\ndef choose_backend(): return asked.append({0!r})\nasked = []\n"
    names = [site.install(f"llamafw-{name}", code.format(name)) for name in ("zebra", "ant")]
    files = [write(tmp_path / f"{name}.py", code.format(name)) for name in ("y", "b")]
    plugins = Plugins(extra=files)
    assert [name for name in plugins.records if not name.startswith("llamafw:")] == [*sorted(names), *files]
    for name in plugins.records:
        plugin = plugins.pm.get_plugin(name)
        if hasattr(plugin, "asked"):
            plugin.asked = order = getattr(plugins, "order", [])
            plugins.order = order  # type: ignore[attr-defined]  # the test's
    assert plugins.call_first("choose_backend", model=None, settings=None) is None
    assert order == ["b", "y", "zebra", "ant"]


def test_a_file_is_a_plugin(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", GOOD)
    plugins = Plugins(extra=[path])
    assert plugins.registry("sampler").owner("twice") == path
    assert plugins.records[path].hooks == ["register_samplers"]


def test_a_plugin_can_be_left_out() -> None:
    plugins = Plugins(block=["samplers"])
    assert plugins.records["llamafw:samplers"].state == "blocked"
    assert "top_k" not in plugins.registry("sampler")


def test_the_way_out_works_for_files_too(tmp_path: Path) -> None:
    path = write(tmp_path / "broken.py", "1 / 0")
    assert Plugins(extra=[path], block=[path]).records[path].state == "blocked"


def test_leaving_out_what_is_not_there_is_an_error() -> None:
    with pytest.raises(PluginError, match="did you mean 'samplers'"):
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
            "it wraps 'register_samplers', and only hooks that ask for one answer can be wrapped",
        ),
    ],
)
def test_a_broken_plugin_is_named_with_the_way_out(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "broken.py", text)
    with pytest.raises(PluginError, match="--no-plugin") as caught:
        Plugins(extra=[path])
    assert message in str(caught.value)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wanted", [">=1.0,<2", "==1.*", f"=={API_VERSION}"])
def test_a_plugin_that_fits_the_api_says_what_it_needs(tmp_path: Path, wanted: str) -> None:
    path = write(tmp_path / "fits.py", f"requires_api = {wanted!r}\n{GOOD}")
    assert Plugins(extra=[path]).records[path].requires_api == wanted


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (">=99", f"llamafw-old 0.3 requires API >=99 of llamafw, and llamafw {VERSION} has API {API_VERSION}"),
        ("<1", f"requires API <1 of llamafw, and llamafw {VERSION} has API {API_VERSION}"),
        ("soon", "its requires_api, 'soon', is no specifier such as '>=1.0,<2'"),
        (1, "its requires_api, 1, is no specifier"),
    ],
)
def test_a_plugin_for_another_api_is_refused_with_both_versions(
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
def test_a_class_is_refused_before_one_is_made_wherever_it_says_what_it_needs(
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
    found = Plugins().records["llamafw-new:new"]
    sys.modules.pop("llamafw_new", None)
    assert "llamafw-new 1 requires API >=99 of llamafw" in str(found.error)


def test_the_version_of_the_api_is_semantic() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", API_VERSION)
    assert f"API {API_VERSION} " in llamafw("version").stdout


ADD_PORT = """
from llamafw import hookimpl

@hookimpl
def add_options(parser):
    parser.add_argument("--port")
"""


def test_a_flag_that_is_taken_names_the_plugin(tmp_path: Path) -> None:
    path = write(tmp_path / "flags.py", ADD_PORT)
    result = llamafw("serve", "--help", "--plugin", path)
    assert result.returncode == 1
    assert f"the flag --port is added by both llamafw and {path}" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_listing_survives_a_broken_plugin(tmp_path: Path) -> None:
    path = write(tmp_path / "broken.py", "1 / 0")
    plugins = Plugins(extra=[path], tolerant=True)
    assert "ZeroDivisionError" in str(plugins.records[path].error)
    assert "top_k" in plugins.registry("sampler")


def test_a_missing_file_is_said_so() -> None:
    with pytest.raises(PluginError, match=r"there is no file .*nowhere\.py"):
        Plugins(extra=["nowhere.py"])


def test_finding_plugins_parses_no_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    """``Distribution.metadata`` does, each time that a name or a version is asked for."""

    def metadata(self: Distribution) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr(Distribution, "metadata", property(metadata))
    assert {one.version for one in discover() if one.distribution == "llamafw"} == {VERSION}


def test_every_built_in_package_is_an_entry_point() -> None:
    names = {one.name for one in discover()}
    expected = {"architectures", "chat_formats", "endpoints", "numba", "quants", "samplers", "tokenizers"}
    assert {f"llamafw:{name}" for name in expected} <= names


def test_registry_refuses_names_that_are_none_and_suggests() -> None:
    registry = Registry("command")
    registry.add("hello", print, owner="a")
    with pytest.raises(PluginError, match="which is no name"):
        registry.add("", print, owner="a")
    assert "hello" in registry.suggest("helo")


def llamafw(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "llamafw", *argv], capture_output=True, text=True, check=False)


def test_listing_as_json_names_what_each_plugin_registered(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", GOOD)
    result = llamafw("plugins", "--json", "--plugin", path)
    found = {one["name"]: one for one in json.loads(result.stdout)}
    assert result.returncode == 0
    assert found[path]["kinds"] == {"sampler": ["twice"]}
    assert found["llamafw:numba"]["kinds"] == {"backend": ["numba"]}


def test_listing_shows_load_errors_and_exits_1(tmp_path: Path) -> None:
    path = write(tmp_path / "broken.py", "1 / 0")
    result = llamafw("plugins", "--plugin", path)
    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stdout


def test_listing_survives_a_plugin_that_fails_to_extend_the_document(tmp_path: Path) -> None:
    path = write(tmp_path / "broken.py", "from llamafw import hookimpl\n@hookimpl\ndef extend_openapi(): 1 / 0\n")
    result = llamafw("plugins", "--plugin", path)
    assert result.returncode == 1
    assert "llamafw:samplers" in result.stdout
    assert f"plugin {path} failed in extend_openapi: ZeroDivisionError" in result.stdout
    assert "Traceback" not in result.stderr
