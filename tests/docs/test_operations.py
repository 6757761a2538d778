"""Tests that docs/operations.md is right: its flags, metrics, log lines and the systemd unit."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path

import httpx
import pytest
import yaml

from llamafw import Settings
from llamafw.cli.parser import CommandParser, add_settings
from llamafw.cli.read_settings import settings_from
from llamafw.settings import options
from llamafw.testing.process import running_server
from llamafw.testing.tiny import write_tiny_gguf

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text("utf-8")
FLAGS = {flag: (name, opt) for name, opt in options().items() for flag in (*opt.flags, *opt.off_flags)}
DEFAULT_PARALLEL = 4  # of `Settings.parallel`, whose own default means "automatic"


def blocks(language: str) -> list[str]:
    """Return the code blocks of the page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.S | re.M)


def parse_command(command: str) -> Settings:
    """Return the settings of a command line with ``llamafw serve``."""
    parser = CommandParser("llamafw serve", "")
    add_settings(parser)
    return settings_from(parser.parse(shlex.split(command.partition("llamafw serve ")[2])), {})


@pytest.fixture(scope="module")
def log_and_metrics(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], str]:
    """The JSON lines of the log and the metrics of a server that has answered one request."""
    folder = tmp_path_factory.mktemp("model")
    model = write_tiny_gguf(folder / "tiny.gguf")
    with running_server(model, "--metrics", "--log-json", "--cache-disk", str(folder / "prompts")) as server:
        body, headers = {"prompt": "abc", "n_predict": 3}, {"x-request-id": "9e9c88"}
        assert httpx.post(f"{server.url}/completion", json=body, headers=headers, timeout=60).status_code == 200
        metrics = httpx.get(f"{server.url}/metrics", timeout=60).text
        assert server.terminate() == 0
        server.wait_for_end()
        return [line for line in server.output if line.startswith("{")], metrics


def test_flags_exist_and_have_the_stated_defaults() -> None:
    named = set(re.findall(r"`(--?[a-z][a-z-]*)", PAGE))
    assert len(named) > 15
    assert named <= FLAGS.keys()

    stated = re.findall(r"`(--?[a-z-]+)`(?: seconds)? \((\d+)[^)]*\)", PAGE)
    assert len(stated) > 5
    for flag, default in stated:
        name, _ = FLAGS[flag]
        actual = DEFAULT_PARALLEL if name == "parallel" else Settings.__dataclass_fields__[name].default
        assert float(default) == actual, flag


def test_shell_commands_are_valid() -> None:
    commands = blocks("sh")
    assert commands
    for command in commands:
        assert parse_command(command.strip()).metrics


def test_systemd_unit_is_valid() -> None:
    (text,) = blocks("ini")
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # as configparser's manual says
    unit.read_string(text)

    assert parse_command(unit["Service"]["ExecStart"]).metrics
    variables = {name for opt in options().values() for name in (opt.env, opt.off_env)} | {"HOME"}
    assert {word.partition("=")[0] for word in unit["Service"]["Environment"].split()} <= variables


def test_metrics_of_the_page_exist(log_and_metrics: tuple[list[str], str]) -> None:
    _, metrics = log_and_metrics
    groups = [group for block in blocks("yaml") for group in yaml.safe_load(block).get("groups", ())]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == 6

    named = {name for rule in rules for name in re.findall(r"(?:llamacpp:|llamafw_)\w+", rule["expr"])}
    named |= set(re.findall(r"`((?:llamacpp:|llamafw_)\w+)`", PAGE))
    assert named <= set(re.findall(r"^(?:# TYPE )?((?:llamacpp:|llamafw_)\w+)", metrics, re.M))


def test_log_lines_of_the_page_match_a_server(log_and_metrics: tuple[list[str], str]) -> None:
    entries = [json.loads(line) for line in log_and_metrics[0]]
    (access,) = (entry for entry in entries if entry.get("path") == "/completion")
    (speed,) = (entry for entry in entries if entry["logger"] == "llamafw.requests")

    (json_entry,) = (json.loads(block) for block in blocks("json"))
    assert list(json_entry) == list(access)
    start = f"{json_entry['method']} {json_entry['path']} {json_entry['status']} {json_entry['ms']} ms"
    assert json_entry["message"].startswith(start)

    lines = [line.split(": ", 1)[1] for line in PAGE.splitlines() if " I llamafw." in line]
    messages = [entry["message"] for entry in (speed, access)]
    assert [without_numbers(line) for line in lines] == [without_numbers(message) for message in messages]


def without_numbers(message: str) -> str:
    """Return a log message with its numbers replaced by 0, and without the address of the client."""
    return re.sub(r"[\d.]+", "0", re.sub(r"client [\d.:]+", "client", message).partition(", request")[0])
