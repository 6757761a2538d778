"""Exit codes of all commands: 2 for usage errors, 1 for other failures; an error is one line on stderr."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llamafw import errors
from llamafw.cli.main import COMMANDS, main
from llamafw.errors import LlamafwError, SettingsError

pytestmark = pytest.mark.slow

PLUGIN = """
from llamafw import hookimpl


def hello(argv):
    raise RuntimeError


@hookimpl
def add_options(parser):
    parser.add_argument("--hello-level", type=int)
"""


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llamafw", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("llamafw: ")
    return line


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["srve"], "unknown command 'srve'; did you mean 'serve'?"),
        (["--serve"], "unknown command '--serve'; did you mean 'serve'?"),
        (["frobnicate"], "unknown command 'frobnicate'; `llamafw --help` lists the commands"),
        (["plugin", "knew"], "plugin: "),
        (["plugin", "new"], "the following arguments are required"),
        (["plugin", "new", "nothing", "x"], "plugin new: "),
        (["plugin", "check", "no-such-plugin"], "plugin check: "),
        (["serve", "extra"], "serve: unexpected argument extra; use -m FILE or -hf USER/REPO to name a model"),
        (["serve", "--rpc", "x"], "serve: --rpc: not supported"),
        (["serve", "--lora-scaled", "x"], "--lora-scaled: 'x' is not FILE:SCALE"),
        (["serve", "--port"], "serve: --port needs a value"),
        (["serve", "--plugin"], "llamafw: --plugin needs a value"),
        (["serve", "--port", "x"], "--port: 'x' is not a whole number"),
        (["serve", "--no-plugin", "nobody"], "--no-plugin nobody"),
        (["serve", "--plugin-option", "x"], "--plugin-option: "),
        (["serve", "--config", "/no/such.toml"], "--config: /no/such.toml cannot be read"),
        (["bench", "-p", "x"], "bench: -p/--n-prompt: 'x' is not a list of whole numbers"),
        (["bench", "-r", "1,2"], "bench: -r/--repetitions: '1,2' is not a whole number from 1"),
        (["pull", "--list", "x"], "pull: --list takes neither names nor --remove"),
        (["pull", "--remove"], "pull: --remove needs the name"),
        (["pull", "-hff", "f", "smollm2-135m"], "pull: --hf-file needs a repository"),
    ],
)
def test_usage_errors_exit_with_2(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert message in error_line(capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_flag_is_a_usage_error_of_every_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = {
        "plugin": ["plugin", "check"],
        "contract-test": ["contract-test", "--url", "http://127.0.0.1:9"],
        "completion": ["completion", "bash"],
    }
    assert main([*words.get(command, [command]), "--no-such-flag"]) == 2
    assert "--no-such-flag" in error_line(capsys)


def test_a_wrong_flag_of_a_plugin_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file := tmp_path / "hello.py").write_text(PLUGIN)
    assert main(["serve", "--plugin", str(file), "--hello-level", "x"]) == 2
    assert "serve: --hello-level: invalid int value: 'x'" in error_line(capsys)


def test_a_wrong_environment_variable_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLAMA_ARG_PORT", "x")
    assert main(["serve"]) == 2
    assert "LLAMA_ARG_PORT: 'x' is not a whole number" in error_line(capsys)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["pull", "no-such-model"], "'no-such-model'"),
        (["pull", "--offline", "user/repo"], "--offline"),
        (["pull", "--remove", "no-such-model"], "no downloaded model is called 'no-such-model'"),
        (["bench", "-m", "/no/model.gguf"], "/no/model.gguf"),
        (["contract-test", "--url", "http://127.0.0.1:9"], "http://127.0.0.1:9/openapi.json cannot be read"),
    ],
)
def test_failures_exit_with_1(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path))
    monkeypatch.setenv("LLAMAFW_CACHE", str(tmp_path))
    assert main(argv) == 1
    assert message in error_line(capsys)


def test_a_port_in_use_exits_with_1(tiny_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", "-m", str(tiny_model), "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    reason = "Address already in use; choose another port with --port"
    assert done.stderr.splitlines()[-1] == f"llamafw: cannot listen on 127.0.0.1:{port}: {reason}"


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["-l", "99999+1"], "--logit-bias: token 99999"), (["--grammar", "root ::= ("], "--grammar: ")],
)
def test_a_setting_that_does_not_fit_the_model_exits_with_2(tiny_model: Path, flags: list[str], message: str) -> None:
    done = run("serve", "-m", str(tiny_model), "--port", "0", *flags)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]


def test_only_settings_errors_are_usage_errors() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LlamafwError)]
    assert len(kinds) > 10
    assert [kind for kind in kinds if kind.exit_code != 1] == [SettingsError]


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["version"], ["--version"]])
def test_help_and_version_exit_with_0(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device stands for a full disk")
@pytest.mark.parametrize("argv", [["version"], ["spec"]])
def test_output_that_cannot_be_written_exits_with_1(argv: list[str]) -> None:
    command = [sys.executable, "-m", "llamafw", *argv]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "llamafw: the output cannot be written: No space left on device"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("argv", [["version"], ["spec"]])
def test_output_that_nobody_reads_exits_with_0(argv: list[str]) -> None:
    command = [sys.executable, "-m", "llamafw", *argv]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        error = process.stderr.read()
    assert (process.returncode, "Error" in error) == (0, False)
