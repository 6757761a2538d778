"""``--config``: TOML files, and who wins over them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llamafw.cli.config import RIVALS, from_file
from llamafw.cli.parser import split_plugin_flags
from llamafw.errors import SettingsError
from llamafw.settings import Settings, options
from support import flags
from support.flags import parse


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "llamafw.toml"


def toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def test_every_long_flag_is_a_key_with_hyphens_and_with_underscores(config: Path) -> None:
    for name, opt in options().items():
        if name == "config":
            continue
        value = flags.value(opt)
        for flag in (*opt.flags, *opt.off):
            if not flag.startswith("--"):
                continue
            by_flag = parse(flag, *(() if opt.type is bool else (str(value),)))
            for key in {flag[2:], flag[2:].replace("-", "_")}:
                config.write_text(f"{key} = {toml(value)}\n")
                assert from_file(config) == {name: getattr(by_flag, name)}, key


def test_flags_win_over_the_environment_and_this_over_the_file(config: Path) -> None:
    config.write_text("port = 1\nslots = true\ncont-batching = false\napi_key = ['a', 'b']\ntemp = 1\n")
    file = ("--config", str(config))
    settings = parse(*file)
    assert (settings.port, settings.slots, settings.cont_batching, settings.api_key) == (1, True, False, ("a", "b"))
    assert (settings.temp, type(settings.temp)) == (1.0, float)  # a whole number is a number
    assert parse(*file, LLAMA_ARG_PORT="2").port == 2
    assert parse(*file, "--port", "3", LLAMA_ARG_PORT="2").port == 3
    assert parse(*file, "--no-slots").slots is False
    assert parse(*file, LLAMA_ARG_CONT_BATCHING="1").cont_batching is True
    assert parse(*file, LLAMA_ARG_NO_ENDPOINT_SLOTS="1").slots is False
    assert parse(*file, "--api-key", "c").api_key == ("c",)
    assert parse(*file).host == Settings().host


def test_the_environment_names_a_file_and_the_flag_another(config: Path, tmp_path: Path) -> None:
    config.write_text("port = 1\n")
    other = tmp_path / "other.toml"
    other.write_text("port = 2\n")
    assert parse(LLAMAFW_CONFIG=str(config)).port == 1
    assert parse("--config", str(other), LLAMAFW_CONFIG=str(config)).port == 2


def test_a_flag_wins_over_the_same_in_other_words(config: Path) -> None:
    config.write_text("sampling-seq = 'kt'\njson-schema = '{}'\nprompt = 'x'\nverbose = true\n")
    flags = ["--samplers", "top_k", "--grammar", "root ::= [a]", "-f", "x.txt", "-lv", "0"]
    settings = parse("--config", str(config), *flags)
    assert settings.sampler_names() == ("top_k",)
    assert (settings.json_schema, settings.prompt, settings.file, settings.verbose) == (None, None, "x.txt", False)
    assert all(rivals <= options().keys() for rivals in RIVALS)


def test_plugins_may_stand_in_the_file(config: Path) -> None:
    config.write_text("plugin = ['a', 'b']\nno-plugin = 'c'\nport = 1\n")
    first, rest = split_plugin_flags(["--config", str(config), "--port", "2"])
    assert (first.plugin, first.no_plugin, first.config, rest) == (("a", "b"), ("c",), str(config), ["--port", "2"])
    assert split_plugin_flags(["--config", str(config), "--plugin", "d"])[0].plugin == ("d",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("porl = 1", "'porl' is no setting; did you mean 'port'?"),
        ("zzzzzz = 1", "'zzzzzz' is no setting"),
        ('"a\\nb" = 1', "'a\\nb' is no setting"),
        ("c = 512", "'c' is no setting"),  # long names only
        ("config = 'x'", "'config' is no setting"),
        ("port = '1'", "port must be a whole number"),
        ("port = true", "port must be a whole number"),
        ("port = 1.0", "port must be a whole number"),
        ("port = [1]", "port must be a whole number"),
        ("port = 70000", "port: 70000 is out of range (from 0 to 65535)"),
        ("temp = true", "temp must be a number"),
        ("temp = nan", "temp: nan is out of range"),
        (f"temp = 1{'0' * 400}", "temp must be a number"),
        ("slots = 1", "slots must be true or false"),
        ("alias = 1", "alias must be a string"),
        ("alias = 1979-05-27", "alias must be a string"),
        ("api-key = ['a', 1]", "api-key must be a string or an array of them"),
        ("cache-type-k = 'q4_0'", "cache-type-k: 'q4_0' is none of f16, f32"),
        ("ctx-size = 1\nctx_size = 2", "ctx_size is set already"),
        ("slots = true\nno-slots = true", "no-slots is set already"),
        ("[my-plugin]\nx = 1", "'my-plugin' is a table; only settings of plugins have some"),
        ("plugin.x = 1", "plugin.x must be a table of settings"),
        ("port =", "cannot be read: Invalid value (at end of document)"),
        (f"port = {'[' * 5000}", "cannot be read"),
    ],
)
def test_what_is_wrong_is_one_line_with_file_and_key(config: Path, text: str, message: str) -> None:
    config.write_text(text)
    with pytest.raises(SettingsError) as caught:
        parse("--config", str(config))
    assert message in str(caught.value)
    assert str(config) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="--config: .* cannot be read"):
        parse(LLAMAFW_CONFIG=str(tmp_path / name))


def test_bytes_that_are_no_text_are_refused(config: Path) -> None:
    config.write_bytes(b"alias = '\xff'")
    with pytest.raises(SettingsError, match="cannot be read"):
        parse("--config", str(config))


def test_commands_read_the_file(config: Path) -> None:
    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "llamafw", *argv, "--config", str(config)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    config.write_text("temp = 0.25\n")
    assert "default: 0.25" in run("spec").stdout
    config.write_text("model = 'nowhere.gguf'\nport = 0\n")
    for name in ("serve", "bench"):
        result = run(name)
        assert (result.returncode, "nowhere.gguf" in result.stderr) == (1, True), name
    config.write_text("offline = true\n")
    result = run("pull", "no-one/nothing")
    assert (result.returncode, "--offline" in result.stderr) == (1, True)
    config.write_text("porl = 1\n")
    for argv in (["serve"], ["spec"], ["plugins"], ["bench"], ["pull", "x"]):
        result = run(*argv)
        assert (result.returncode, result.stdout) == (1, ""), argv
        assert result.stderr == f"llamafw: {config}: 'porl' is no setting; did you mean 'port'?\n"
