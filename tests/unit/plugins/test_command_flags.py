"""Flags that plugins add, in the commands that have flags of their own: they work, or an error names both."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamafw.cli.main import main


def write_plugin(path: Path, arguments: str) -> str:
    """Write a plugin that adds a flag, ``parser.add_argument(arguments)``; return its path."""
    head = "import argparse\nfrom llamafw import hookimpl\n\n\n@hookimpl\ndef add_options(parser):\n"
    path.write_text(f"{head}    parser.add_argument({arguments})\n")
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "command", "message"),
    [
        ("'-d', '--dog'", "bench", "the flag -d is added by both llamafw bench and "),
        ("'--chunks'", "perplexity", "the flag --chunks is added by both llamafw perplexity and "),
        ("'--chunks'", "imatrix", "the flag --chunks is added by both llamafw imatrix and "),
        ("'--method'", "cvector", "the flag --method is added by both llamafw cvector and "),
        ("'--set'", "run", "the flag --set is added by both llamafw run and "),
        ("'--x', dest='json'", "bench", "the setting json is added by both llamafw bench and "),
        ("'--x', dest='paths'", "perplexity", "the setting paths is added by both llamafw perplexity and "),
        ("'--x', dest='method'", "cvector", "the setting method is added by both llamafw cvector and "),
        ("'--x', dest='url'", "chat", "the setting url is added by both llamafw chat and "),
    ],
)
def test_a_plugin_flag_that_a_command_has_is_an_error(
    arguments: str, command: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = write_plugin(tmp_path / "mine.py", arguments)
    assert main([command, "--plugin", plugin]) == 1
    assert capsys.readouterr().err == f"llamafw: {message}{plugin}\n"


COMMANDS = [
    ["bench"],
    ["perplexity", "TEXT"],
    ["imatrix", "TEXT"],
    ["cvector", "--positive-file=A", "--negative-file=B"],
]


@pytest.mark.parametrize("argv", COMMANDS, ids=lambda argv: argv[0])
def test_commands_that_run_models_take_any_flag_of_a_plugin(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model does not exist, which is found out after all flags are read."""
    monkeypatch.chdir(tmp_path)
    for name in "TEXT", "A", "B":
        Path(name).write_text("text")
    for arguments, flags, code in (
        ("'--about', action='version', version='my version'", [], 1),
        ("'--mine', default=argparse.SUPPRESS", [], 1),
        ("'--mine', action='append', default=['a']", ["--mine", "b", "--mine", "c"], 1),
        ("'--need', required=True", ["--need", "x"], 1),
        ("'--need', required=True", [], 2),
    ):
        plugin = write_plugin(tmp_path / "mine.py", arguments)
        assert main([*argv, "-m", "missing.gguf", "--plugin", plugin, *flags]) == code
        expected = "missing.gguf" if code == 1 else "the following arguments are required: --need"
        assert expected in capsys.readouterr().err


def test_flags_of_plugins_are_refused_with_a_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    url = "http://127.0.0.1:9"  # where no server is
    plugin = write_plugin(tmp_path / "mine.py", "'--size', type=int, default='5'")
    words = ["run", "--url", url, "-p", "x", "--plugin", plugin]
    for flag, value in (("--size", "6"), ("--numba-activations", "int8")):
        assert main([*words, flag, value]) == 2
        assert f"llamafw: run: {flag} is a setting of the server at --url" in capsys.readouterr().err
    assert main(words) == 1
    assert f"{url}: the server cannot be reached" in capsys.readouterr().err
