"""``--help`` of every command has a description and an example; that of ``serve`` begins with the common flags."""

from __future__ import annotations

import re
import shlex

import pytest

from llamafw.cli.main import COMMANDS, main
from llamafw.settings import COMMON, options

SUBCOMMANDS = [["plugin", "new"], ["plugin", "check"]]
HELP = [*([name] for name in COMMANDS), *SUBCOMMANDS]


def help_text(*command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what a command prints for ``--help``, however it exits."""
    try:
        code: object = main([*command, "--help"])
    except SystemExit as exit:
        code = exit.code
    assert not code
    return capsys.readouterr().out


@pytest.mark.parametrize("command", HELP, ids=" ".join)
def test_help_has_a_description_and_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = help_text(*command, capsys=capsys)
    usage, description, *_ = text.split("\n\n")
    assert usage.startswith(f"usage: llamafw {' '.join(command)}")
    assert re.match(r"[A-Z][a-z]+ ", description)
    examples = text.split("\nexample:\n")[1].splitlines()
    assert examples
    for line in examples:
        assert shlex.split(line)[: len(command) + 1] == ["llamafw", *command]


@pytest.mark.parametrize("name", ["serve", "bench", "pull", "spec", "plugins"])
def test_examples_have_only_known_flags(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_text(name, capsys=capsys)
    before, _, examples = text.partition("\nexample:\n")
    flags = re.findall(r"(?<=\s)-[\w-]+", examples)
    assert flags
    assert all(re.search(rf"(^|\s){re.escape(flag)}\b", before) for flag in flags), flags


def test_serve_lists_the_ten_common_flags_first(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_text("serve", capsys=capsys)
    groups = re.findall(r"^(\S[^:\n]*):$", text, re.M)
    assert groups[0] == "common"
    assert groups[-2:] == ["help and version", "example"]
    common = [opt for opt in options().values() if opt.group == COMMON]
    assert len(common) == 10
    first = text.split("\ncommon:\n")[1].split("\n\n")[0]
    listed = re.findall(r"^  (-\S+?),? ", first, re.M)
    assert listed == [opt.flags[0] for opt in common]
    assert {"-m", "-hf", "-c", "-np", "-t", "--host", "--port", "--api-key"} <= set(listed)


def test_help_shows_defaults_choices_and_variables(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(help_text("serve", capsys=capsys).split())
    assert "port to listen on; 0: any free port (default: 8080) [env: LLAMA_ARG_PORT]" in text
    assert "--prio N priority of the threads; -1: low, 0: normal, 1: medium, 2: high, 3: realtime (default: 0)" in text
    assert (
        "data type of the KV cache for K [f32, f16, bf16, q8_0, q4_0, q4_1, iq4_nl, q5_0, q5_1] (default: f16)" in text
    )
    assert "(default: on) [env: LLAMA_ARG_MMAP] --no-mmap turn --mmap off [env: LLAMA_ARG_NO_MMAP]" in text


def test_the_list_of_commands_says_what_each_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +{re.escape(what)}$", text, re.M) for name, what in COMMANDS.items())


def test_help_texts_are_phrases() -> None:
    assert len(options()) > 100
    for name, opt in options().items():
        assert not opt.help.endswith((".", ";", ",")), name
        assert "  " not in opt.help, name
