"""Options of plugins: declared as JSON Schemas, set by flags or the file, checked, and passed to `configure`.

Also the command line flags that plugins add, as keys of the file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llamafw import PluginError, Settings, SettingsError
from llamafw.cli.config import read_config
from llamafw.cli.parser import CommandParser, add_settings
from llamafw.cli.plugin_flags import collect_plugin_flags
from llamafw.cli.read_settings import load_plugins, parse_early_flags, settings_from
from support.distributions import Site

CODE = """
from llamafw import hookimpl

plugin_options = {
    "limit": {"type": "integer", "minimum": 1, "default": 60},
    "name": {"type": "string"},
    "ratio": {"type": "number", "default": 0.5},
    "on": {"type": "boolean", "default": False},
    "list": {"type": "array", "items": {"type": "string"}},
    "mode": {"enum": ["a", "1"], "default": "a"},
    "any": {},
    "size": {"anyOf": [{"enum": ["auto", "all", "none"]}, {"type": "array", "items": {"type": "integer"}}]},
}
seen = []

@hookimpl
def configure(options): seen.append(dict(options))

@hookimpl
def register_samplers(register): seen.append("registers")
"""
DEFAULTS = {"limit": 60, "ratio": 0.5, "on": False, "mode": "a"}


def configure_with(*argv: str) -> list[Any]:
    """Return what the plugin's hooks recorded: the options of `configure`, then "registers"."""
    load_plugins(parse_early_flags(argv)[0])
    import llamafw_x  # type: ignore[import-not-found]  # written by the fixture

    seen = list(llamafw_x.seen)
    llamafw_x.seen.clear()
    return seen


@pytest.fixture
def x(site: Site) -> str:
    return site.install("llamafw-x", CODE)


def test_defaults_are_passed_before_anything_is_registered(x: str) -> None:
    assert configure_with() == [DEFAULTS, "registers"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("limit=9", {"limit": 9}),
        ("name=9", {"name": "9"}),
        ("name=a=b.c", {"name": "a=b.c"}),
        ("name=", {"name": ""}),
        ("ratio=1", {"ratio": 1}),
        ("on=true", {"on": True}),
        ('list=["a", "b,c"]', {"list": ["a", "b,c"]}),
        ("mode=1", {"mode": "1"}),
        ("any=[1]", {"any": [1]}),
        ("any=word", {"any": "word"}),
    ],
)
def test_text_is_parsed_as_the_type_of_the_schema(x: str, text: str, value: dict[str, Any]) -> None:
    assert configure_with("--plugin-option", f"x.{text}")[0] == DEFAULTS | value
    assert configure_with(f"--plugin-option=x.{text}")[0] == DEFAULTS | value


@pytest.mark.parametrize("name", ["x", "llamafw-x", "llamafw-x:x", "llamafw_x"])
def test_settings_may_use_any_name_of_the_plugin(x: str, name: str, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'[plugin."{name}"]\nlimit = 7\n')
    assert configure_with("--plugin-option", f"{name}.limit=8")[0]["limit"] == 8
    assert configure_with("--config", str(config))[0]["limit"] == 7


def test_a_named_plugin_has_settings_too(x: str) -> None:
    assert configure_with("--plugin", "x", "--plugin-option", "x.limit=8")[0]["limit"] == 8


def test_flags_override_single_keys_of_the_file(x: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "c.toml"
    config.write_text("port = 1\n[plugin.x]\nlimit = 7\nratio = 2\non = true\n")
    file = ("--config", str(config))
    assert configure_with(*file)[0] == DEFAULTS | {"limit": 7, "ratio": 2, "on": True}
    flag = ("--plugin-option", "llamafw-x.limit=8")
    assert configure_with(*file, *flag)[0] == DEFAULTS | {"limit": 8, "ratio": 2, "on": True}
    monkeypatch.setenv("LLAMAFW_PLUGIN_OPTIONS", "x.limit=9,x.name=n")
    assert configure_with(*file)[0] == DEFAULTS | {"limit": 9, "name": "n", "ratio": 2, "on": True}
    assert configure_with(*file, *flag)[0] == DEFAULTS | {"limit": 8, "ratio": 2, "on": True}


@pytest.mark.parametrize(
    ("flag", "table", "message"),
    [
        ("x.limit=0", "limit = 0", "limit: 0 is less than the minimum of 1 (plugin llamafw-x:x)"),
        ("x.limit=many", "limit = 'many'", 'limit: "many" is not of type "integer" (plugin llamafw-x:x)'),
        ("x.limt=1", "limt = 1", "limt: plugin llamafw-x:x has no option 'limt'; did you mean 'limit'?"),
        ("x.zzz=1", "zzz = 1", "has no option 'zzz'; available: limit, name, ratio, on, list, mode, any, size"),
        ('x.list=["a", 1]', "list = ['a', 1]", 'list: 1 is not of type "string"'),
        ("x.mode=b", "mode = 'b'", 'mode: "b" is not one of "a"'),
        (
            "x.size=most",
            "size = 'most'",
            'size: "most" is not one of "auto", "all", "none", and "most" is not of type "array" (plugin llamafw-x:x)',
        ),
        ("x.size=[1.5]", "size = [1.5]", 'size: 1.5 is not of type "integer" (plugin llamafw-x:x)'),
        (None, "name = 1979-05-27", "name: datetime.date(1979, 5, 27) cannot be written as JSON (plugin llamafw-x:x)"),
    ],
)
def test_errors_name_the_plugin_the_key_and_the_source(
    x: str, tmp_path: Path, flag: str | None, table: str, message: str
) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f"[plugin.x]\n{table}\n")
    with pytest.raises(SettingsError) as caught:
        configure_with("--config", str(config))
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{config}: plugin.x.")
    if flag is not None:
        with pytest.raises(SettingsError) as caught:
            configure_with("--plugin-option", flag)
        assert message in str(caught.value)
        assert str(caught.value).startswith("--plugin-option x.")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("y.limit=1", "--plugin-option y: plugin 'y' does not exist"),
        (
            "llamafw-y.limit=1",
            "--plugin-option llamafw-y: plugin 'llamafw-y' does not exist; did you mean 'llamafw-x'?",
        ),
        ("limit=1", "--plugin-option: 'limit=1' is not of the form NAME.key=value"),
        ("x.limit", "--plugin-option: 'x.limit' is not of the form NAME.key=value"),
        ("samplers.limit=1", "plugin llamafw:samplers has no option 'limit'; available: none"),
    ],
)
def test_settings_that_belong_to_no_option_are_errors(x: str, flag: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        configure_with("--plugin-option", flag)
    assert message in str(caught.value)


def test_an_ambiguous_name_is_an_error(x: str, site: Site) -> None:
    (site.folder / "other_x-1.dist-info").mkdir()
    (site.folder / "other_x-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: other-x\nVersion: 1\n")
    (site.folder / "other_x-1.dist-info/entry_points.txt").write_text("[llamafw]\nx = llamafw_other_x\n")
    (site.folder / "llamafw_other_x.py").write_text(CODE)
    with pytest.raises(
        SettingsError, match="--plugin-option x: the name 'x' is ambiguous; write llamafw-x:x or other-x:x"
    ):
        configure_with("--plugin-option", "x.limit=1")


def test_settings_of_a_blocked_plugin_are_ignored(x: str, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("no-plugin = 'x'\n[plugin.x]\nnonsense = 1\n")
    assert load_plugins(parse_early_flags(["--config", str(config)])[0]).records[x].state == "blocked"


def test_a_plugin_file_has_settings_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    config = tmp_path / "c.toml"
    config.write_text(f"plugins = ['{path}']\n[plugin.mine]\nlimit = 5\n")
    early, _ = parse_early_flags(["--config", str(config), "--plugin-option", f"{path}.name=x"])
    plugins = load_plugins(early)
    module: Any = plugins.pm.get_plugin(str(path))
    assert module.seen[0] == DEFAULTS | {"limit": 5, "name": "x"}
    assert read_config(config)[0] == {"plugin": (str(path),), "plugin_tables": {"mine": {"limit": 5}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("def configure", "def konfigure"), "it implements 'konfigure', which is not a hook of llamafw; did you mean"),
        (
            ("@hookimpl\ndef configure(options): seen.append(dict(options))\n", ""),
            "does not implement the hook configure, which receives them",
        ),
        (('"integer"', '"integr"'), "the schema of its option 'limit' is not a valid JSON Schema"),
        (('"default": 60', '"default": 0'), "the default of its option 'limit' does not match its schema: 0"),
        (
            ("plugin_options = {", "plugin_options = 1 or {"),
            "its plugin_options must be a mapping of keys to JSON Schemas, not 1",
        ),
    ],
)
def test_invalid_option_declarations_are_errors(site: Site, change: tuple[str, str], message: str) -> None:
    name = site.install("llamafw-x", CODE.replace(*change))
    with pytest.raises(PluginError, match=f"plugin {name} cannot be loaded: .*{message}"):
        load_plugins(Settings(plugin_strict=True))


# --- flags of plugins in the file

FLAGS = """
import argparse
from pathlib import Path
from llamafw import hookimpl

@hookimpl
def add_options(parser):
    parser.add_argument("--steady", action="store_true")
    parser.add_argument("--slow-ms", type=float, metavar="MS")
    parser.add_argument("--words", action="append")
    parser.add_argument("--pair", nargs=2, type=int)
    parser.add_argument("--place", type=Path)
    parser.add_argument("--which", choices=("a", "b"), required=True)
    parser.add_argument("--loud", action=argparse.BooleanOptionalAction, default=True)
"""


def read_extra(config: Path, *argv: str) -> dict[str, Any]:
    """Return the values of plugins' flags, without those of built-in plugins."""
    early, rest = parse_early_flags(["--config", str(config), *argv])
    parser = CommandParser("llamafw serve", "")
    parser.add_flags_of(collect_plugin_flags(load_plugins(early), early.config))
    add_settings(parser)
    settings = settings_from(parser.parse(rest), {}, plugin_keys_checked=True, config=early.config)
    return {
        name: value for name, value in settings.extra.items() if not name.startswith(("numba_", "onnx_", "responses_"))
    }


def test_plugin_flags_are_keys_of_the_file(site: Site, tmp_path: Path) -> None:
    site.install("llamafw-flags", FLAGS)
    config = tmp_path / "c.toml"
    config.write_text(
        "steady = true\nslow_ms = 2\nwords = ['x', 'y']\npair = [1, 2]\nplace = 'here'\nwhich = 'b'\nloud = false\n"
    )
    expected = {
        "steady": True,
        "slow_ms": 2.0,
        "words": ["x", "y"],
        "pair": [1, 2],
        "place": Path("here"),
        "which": "b",
        "loud": False,
    }
    assert read_extra(config) == expected
    flags = ("--slow-ms=3", "--words", "z", "--which", "a", "--loud", "--pair", "3", "4")
    other = {"slow_ms": 3.0, "words": ["z"], "which": "a", "loud": True, "pair": [3, 4]}
    assert read_extra(config, *flags) == expected | other
    config.write_text("which = 'a'\nno-loud = true\nwords = 'x'\n")
    assert read_extra(config) == dict.fromkeys(("slow_ms", "pair", "place")) | {
        "steady": False,
        "words": ["x"],
        "which": "a",
        "loud": False,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steady = 1", "steady must be true or false"),
        ("slow-ms = 'x'", "slow-ms: 'x' is not a value for --slow-ms"),
        ("slow-ms = true", "slow-ms: True is not a value for --slow-ms"),
        ("words = [1]", "words: 1 is not a value for --words"),
        ("which = 'c'", "which: 'c' is not one of a, b"),
        ("slow-mss = 1", "unknown setting 'slow-mss'; did you mean 'slow-ms'?"),
        ("porl = 1", "unknown setting 'porl'; did you mean 'port'?"),
    ],
)
def test_invalid_values_of_plugin_flags_are_errors(site: Site, tmp_path: Path, text: str, message: str) -> None:
    site.install("llamafw-flags", FLAGS)
    config = tmp_path / "c.toml"
    config.write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_extra(config)
    assert str(caught.value).startswith(f"{config}: ")
    assert message in str(caught.value)


def test_commands_without_plugin_flags_accept_the_same_file(site: Site, tmp_path: Path) -> None:
    site.install("llamafw-flags", FLAGS)
    config = tmp_path / "c.toml"
    config.write_text("steady = true\noffline = true\nwhich = 'a'\n")
    environ = {"PYTHONPATH": str(site.folder), "PATH": ""}

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "llamafw", *argv, "--config", str(config)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environ)

    assert "--offline" in run("pull", "no-one/nothing").stderr
    assert json.loads(run("spec", "--json").stdout)
    config.write_text("stedy = true\n")
    assert "unknown setting 'stedy'; did you mean 'steady'?" in run("pull", "no-one/nothing").stderr


def test_two_plugins_with_one_flag_are_an_error_that_names_both(site: Site) -> None:
    for name in ("llamafw-a", "llamafw-b"):
        site.install(
            name,
            "from llamafw import hookimpl\n@hookimpl\ndef add_options(parser): "
            f"parser.add_argument('--same', dest='{name[-1]}')\n",
        )
    with pytest.raises(PluginError, match="the flag --same is added by both llamafw-a:a and llamafw-b:b"):
        collect_plugin_flags(load_plugins(Settings()))


def test_a_plugin_flag_with_the_dest_of_a_setting_is_an_error(site: Site) -> None:
    add = "def add_options(parser): parser.add_argument('--x', dest='model')\n"
    site.install("llamafw-a", f"from llamafw import hookimpl\n@hookimpl\n{add}")
    with pytest.raises(PluginError, match="the setting model is added by both llamafw and llamafw-a:a"):
        collect_plugin_flags(load_plugins(Settings()))
