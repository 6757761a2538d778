"""docs/operations.md: its flags, series, log lines and units are real ones."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from llamafw.cli.parser import Parser, add_settings, settings_from
from llamafw.settings import options
from support.server import running_server
from support.tiny import write_tiny_gguf

PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text("utf-8")
FLAGS = {flag: opt for opt in options().values() for flag in (*opt.flags, *opt.off)}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.S | re.M)


def served(command: str) -> Any:
    """The settings of a command that serves."""
    parser = Parser("llamafw serve", "")
    add_settings(parser)
    return settings_from(parser.parse(shlex.split(command.partition("llamafw serve ")[2])), {})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], str]:
    """The log and the metrics of a server that has answered once."""
    model = write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")
    with running_server(model, "--metrics", "--log-json") as server:
        body = {"prompt": "abc", "n_predict": 3}
        assert httpx.post(f"{server.url}/completion", json=body, headers={"x-request-id": "9e9c88"}).status_code == 200
        metrics = httpx.get(f"{server.url}/metrics").text
        assert server.terminate() == 0
        server.wait_for_end()
        return [line for line in server.output if line.startswith("{")], metrics


def test_every_flag_it_names_is_one() -> None:
    named = set(re.findall(r"`(--?[a-z][a-z-]*)", PAGE))
    assert len(named) > 15
    assert named <= FLAGS.keys()
    for flag, default in re.findall(r"`(--?[a-z-]+)` \((\d+)[^)]*\)", PAGE):
        name = next(name for name, opt in options().items() if opt is FLAGS[flag] or flag in opt.flags)
        field = type(served("llamafw serve -m x")).__dataclass_fields__[name]
        assert float(default) == (4 if name == "parallel" else field.default), flag


def test_its_commands_can_be_given() -> None:
    for command in blocks("sh"):
        assert served(command.strip()).metrics


def test_its_unit_is_one() -> None:
    (text,) = blocks("ini")
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # as configparser's manual says
    unit.read_string(text)
    assert served(unit["Service"]["ExecStart"]).metrics
    known = {name for opt in options().values() for name in (opt.env, opt.off_env)} | {"HOME"}
    assert {word.partition("=")[0] for word in unit["Service"]["Environment"].split()} <= known


def test_its_series_are_those_of_a_server(written: tuple[list[str], str]) -> None:
    rules = [
        rule for block in blocks("yaml") for group in yaml.safe_load(block).get("groups", ()) for rule in group["rules"]
    ]
    assert len(rules) == 6
    named = {name for rule in rules for name in re.findall(r"(?:llamacpp:|llamafw_)\w+", rule["expr"])}
    named |= set(re.findall(r"`((?:llamacpp:|llamafw_)\w+)`", PAGE))
    found = set(re.findall(r"^(?:# TYPE )?((?:llamacpp:|llamafw_)\w+)", written[1], re.M))
    assert named <= found


def test_its_log_lines_are_those_of_a_server(written: tuple[list[str], str]) -> None:
    entries = [json.loads(line) for line in written[0]]
    (shown,) = (json.loads(block) for block in blocks("json"))
    (access,) = (entry for entry in entries if entry.get("path") == "/completion")
    (speed,) = (entry for entry in entries if entry["logger"] == "llamafw.requests")
    assert list(shown) == list(access)
    both = [re.sub(r"[\d.]+", "0", entry["message"]) for entry in (speed, access)]
    text = [re.sub(r"[\d.]+", "0", line.partition(": ")[2]) for line in PAGE.splitlines() if " I llamafw." in line]
    assert [line.partition(", client")[0] for line in both] == [line.partition(", client")[0] for line in text]
    assert shown["message"].startswith(f"{shown['method']} {shown['path']} {shown['status']} {shown['ms']} ms")
