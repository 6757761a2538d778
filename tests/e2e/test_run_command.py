"""`llamafw run`, and `llamafw chat -p`, with a tiny model in their own process and with a server."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from llamafw.cli.main import main
from llamafw.cli.terminal.answers import printable
from llamafw.testing.process import ServerProcess, running_server

SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
FLAGS = ("--set", "temperature=0", "--set", "max_tokens=12", "-p", "Hello?")


@pytest.fixture(scope="module")
def server(tiny_model: Path) -> Iterator[ServerProcess]:
    """A server with the tiny model."""
    with running_server(tiny_model) as server:
        yield server


@pytest.fixture(autouse=True)
def no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands in this process read an empty input."""
    monkeypatch.setattr("sys.stdin", io.StringIO())


def run(*argv: str, input: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``llamafw`` with a pipe on each side."""
    command = [sys.executable, "-m", "llamafw", *argv]
    return subprocess.run(command, input=input, capture_output=True, text=True, check=False)


def test_a_model_in_this_process_answers_like_a_server(tiny_model: Path, server: ServerProcess) -> None:
    body = {"messages": [{"role": "user", "content": "Hello?"}], "temperature": 0, "max_tokens": 12}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()
    expected = printable(answer["choices"][0]["message"]["content"])  # the tiny model also writes control codes
    assert expected.strip()

    here = run("run", str(tiny_model), *FLAGS)
    there = run("run", "--url", server.url, *FLAGS)
    assert here.stdout.rstrip("\n") == there.stdout.rstrip("\n") == expected.rstrip("\n")
    assert here.returncode == there.returncode == 0
    assert here.stderr == there.stderr == "llamafw: the answer was cut off at the token limit\n"


def test_json_schema_is_given_or_in_a_file(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    for schema in (json.dumps(SCHEMA), f"@{file}"):
        result = run("run", "--url", server.url, "--json-schema", schema, "A colour?")
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["colour"] in ("red", "green")


def test_cut_json_is_a_failure(server: ServerProcess) -> None:
    schema = json.dumps({"type": "string", "minLength": 1000})
    result = run("run", "--url", server.url, "-j", schema, "--set", "max_tokens=3", "-p", "Write.")
    assert result.returncode == 1
    assert "cut off at the token limit" in result.stderr


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--json-schema", "{"], 2, "--json-schema is not valid JSON"),
        (["--json-schema", "@/no/such.json"], 2, "/no/such.json cannot be read"),
        (["--json-schema", '{"type": 3}'], 1, "'type' must be"),
        (["--set", "temperature=hot"], 2, "temperature must be a number"),
        (["--set", "temprature=1"], 2, "did you mean 'temperature'"),
        (["--set", "temperature"], 2, "write NAME=VALUE"),
        (["--temp", "0"], 2, "--temperature is a setting of the server at --url"),
    ],
)
def test_errors_name_what_is_wrong(
    server: ServerProcess, flags: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--url", server.url, "-p", "Hello?", *flags]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["run", "--url", "http://127.0.0.1:9", "-p", "x"], 1, "http://127.0.0.1:9: the server cannot be reached"),
        (["run", "--url", "ftp://x", "-p", "x"], 2, "must begin with http:// or https://"),
        (["run", "no-such-model", "-p", "x"], 1, "'no-such-model' is neither a file nor a model"),
        (["run", "-m", "x.gguf", "y.gguf", "z"], 2, "both name a model"),
        (["run", "-p", "x", "y z"], 2, "the prompt is given twice"),
    ],
)
def test_failures_before_an_answer(
    argv: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == code
    assert message in capsys.readouterr().err


def test_a_reader_that_stops_reading_is_not_an_error(server: ServerProcess) -> None:
    command = [sys.executable, "-m", "llamafw", "run", "--url", server.url, "--set", "max_tokens=200", "-p", "Write."]
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "Traceback" not in err


def test_ctrl_c_ends_with_130(server: ServerProcess) -> None:
    command = [sys.executable, "-m", "llamafw", "run", "--url", server.url, "--set", "ignore_eos=true", "-p", "Write."]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
