"""``--config``: TOML files, and which source takes precedence."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from llamafw.cli.config import ALTERNATIVES, read_config
from llamafw.cli.read_settings import parse_early_flags
from llamafw.errors import SettingsError
from llamafw.options import Option
from llamafw.settings import Settings, options
from llamafw.types.backend_options import CacheType
from support import flags
from support.flags import parse_settings


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "llamafw.toml"


def to_toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


@pytest.mark.parametrize(("name", "opt"), [item for item in options().items() if item[0] != "config"])
def test_every_long_flag_is_a_key_of_the_file(name: str, opt: Option, config: Path) -> None:
    value = flags.sample_value(opt)
    long_flags = [flag for flag in (*opt.flags, *opt.off_flags) if flag.startswith("--")]
    assert long_flags
    for flag in long_flags:
        by_flag = parse_settings(flag, *(() if opt.type is bool else (str(value),)))
        for key in {flag[2:], flag[2:].replace("-", "_")}:
            config.write_text(f"{key} = {to_toml(value)}\n")
            assert read_config(config) == ({name: getattr(by_flag, name)}, {}), key


def test_flags_win_over_the_environment_and_both_over_the_file(config: Path) -> None:
    config.write_text("port = 1\nslots = true\ncont-batching = false\napi_key = ['a', 'b']\ntemp = 1\n")
    file = ("--config", str(config))
    settings = parse_settings(*file)
    assert (settings.port, settings.slots, settings.cont_batching, settings.api_key) == (1, True, False, ("a", "b"))
    assert (settings.temp, type(settings.temp)) == (1.0, float)  # a whole number is a number, too
    assert parse_settings(*file, LLAMA_ARG_PORT="2").port == 2
    assert parse_settings(*file, "--port", "3", LLAMA_ARG_PORT="2").port == 3
    assert parse_settings(*file, "--no-slots").slots is False
    assert parse_settings(*file, LLAMA_ARG_CONT_BATCHING="1").cont_batching is True
    assert parse_settings(*file, LLAMA_ARG_NO_ENDPOINT_SLOTS="1").slots is False
    assert parse_settings(*file, "--api-key", "c").api_key == ("c",)
    assert parse_settings(*file).host == Settings().host


def test_the_config_flag_wins_over_its_variable(config: Path, tmp_path: Path) -> None:
    config.write_text("port = 1\n")
    other = tmp_path / "other.toml"
    other.write_text("port = 2\n")
    assert parse_settings(LLAMAFW_CONFIG=str(config)).port == 1
    assert parse_settings("--config", str(other), LLAMAFW_CONFIG=str(config)).port == 2


def test_a_flag_replaces_its_alternatives_in_the_file(config: Path) -> None:
    config.write_text("sampling-seq = 'kt'\njson-schema = '{}'\nprompt = 'x'\nverbose = true\n")
    flags = ["--samplers", "top_k", "--grammar", "root ::= [a]", "-f", "x.txt", "-lv", "0"]
    settings = parse_settings("--config", str(config), *flags)
    assert settings.sampler_names() == ("top_k",)
    assert (settings.json_schema, settings.prompt, settings.file, settings.verbose) == (None, None, "x.txt", False)


def test_alternatives_are_settings() -> None:
    assert ALTERNATIVES
    assert all(names <= options().keys() for names in ALTERNATIVES)


def test_the_file_chooses_plugins(config: Path) -> None:
    config.write_text("plugin = ['a', 'b']\nno-plugin = 'c'\nport = 1\n")
    early, rest = parse_early_flags(["--config", str(config), "--port", "2"])
    assert (early.plugin, early.no_plugin, early.config, rest) == (("a", "b"), ("c",), str(config), ["--port", "2"])
    assert parse_early_flags(["--config", str(config), "--plugin", "d"])[0].plugin == ("d",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("porl = 1", "unknown setting 'porl'; did you mean 'port'?"),
        ("prot = 1", "unknown setting 'prot'; did you mean 'port'?"),
        ("device = 1", "unknown setting 'device'"),
        ('"a\\nb" = 1', "unknown setting 'a\\nb'"),
        ("c = 512", "unknown setting 'c'"),  # only long names are keys
        ("config = 'x'", "unknown setting 'config'"),
        ("port = '1'", "port must be a whole number, not '1'"),
        ("port = true", "port must be a whole number, not true"),
        ("port = 1.0", "port must be a whole number, not 1.0"),
        ("port = [1]", "port must be a whole number, not [1]"),
        ("port = 70000", "port: 70000 is out of range (from 0 to 65535)"),
        ("temp = true", "temp must be a number, not true"),
        ("temp = nan", "temp: nan is out of range (from -1000 to 1000)"),
        (f"temp = 1{'0' * 400}", f"temp must be a number, not 1{'0' * 79}"),
        ("slots = 1", "slots must be true or false, not 1"),
        ("hf-repo = 1", "hf-repo must be a string, not 1"),
        ("hf-repo = 1979-05-27", "hf-repo must be a string, not 1979-05-27"),
        ("api-key = ['a', 1]", "api-key must be a string or an array of them, not 1"),
        ("cache-type-k = 'q4_k'", f"cache-type-k: 'q4_k' is not one of {', '.join(get_args(CacheType))}"),
        ("ctx-size = 1\nctx_size = 2", "ctx_size is already set, by another name of the same flag"),
        ("slots = true\nno-slots = true", "no-slots is already set, by another name of the same flag"),
        ("[my-plugin]\nx = 1", "'my-plugin' is a table; the only tables are settings of plugins, [plugin.NAME]"),
        ("plugin.x = 1", "plugin.x must be a table of settings, [plugin.x]"),
    ],
)
def test_a_wrong_file_is_one_line_with_file_and_key(config: Path, text: str, message: str) -> None:
    config.write_text(text)
    with pytest.raises(SettingsError) as caught:
        parse_settings("--config", str(config))
    assert str(caught.value) == f"{config}: {message}"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"port =", "is not valid TOML: "),
        (b"port = " + b"[" * 5000, "is not valid TOML: "),
        (b"port = " + b"1" * 5000, "is not valid TOML: "),
        (b"alias = '\xff'", r"cannot be read: it is not UTF-8 \(byte 9\)"),
    ],
    ids=["TOML", "nested too deeply", "too many digits", "UTF-8"],
)
def test_a_file_that_is_not_toml_is_refused(config: Path, text: bytes, problem: str) -> None:
    config.write_bytes(text)
    with pytest.raises(SettingsError, match=f"--config: .*llamafw.toml {problem}") as caught:
        parse_settings("--config", str(config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_missing_file_is_named_in_the_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(SettingsError, match=f"^--config: {re.escape(str(path))} cannot be read: [A-Z]"):
        parse_settings(LLAMAFW_CONFIG=str(path))


def run(*argv: str, config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llamafw", *argv, "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_commands_read_the_file(config: Path) -> None:
    config.write_text("temp = 0.25\n")
    assert "default: 0.25" in run("spec", config=config).stdout

    config.write_text("model = 'nowhere.gguf'\nport = 0\n")
    for name in ("serve", "bench"):
        done = run(name, config=config)
        assert (done.returncode, "nowhere.gguf" in done.stderr) == (1, True), name

    config.write_text("offline = true\n")
    done = run("pull", "no-one/nothing", config=config)
    assert (done.returncode, "--offline" in done.stderr) == (1, True)


@pytest.mark.parametrize("argv", [["serve"], ["spec"], ["plugins"], ["bench"], ["pull", "x"]], ids=" ".join)
def test_an_unknown_key_is_a_usage_error_of_every_command(argv: list[str], config: Path) -> None:
    config.write_text("porl = 1\n")
    done = run(*argv, config=config)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"llamafw: {config}: unknown setting 'porl'; did you mean 'port'?\n"
