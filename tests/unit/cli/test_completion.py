"""`llamafw completion`: the scripts complete in real shells, as far as these are installed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from llamafw.cli.completion import SHELLS
from llamafw.cli.main import COMMANDS, main
from support.shells import completions, shell

pytestmark = pytest.mark.slow


def script(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Write the script for a shell to a file."""
    assert main(["completion", name]) == 0
    file = folder / f"completion.{name}"
    file.write_text(capsys.readouterr().out, "utf-8")
    return file


# Command lines, and what shells offer after them.
OFFERED: dict[str, set[str]] = {
    "llamafw ser": {"serve"},
    "llamafw serve --rope-scal": {"--rope-scale", "--rope-scaling"},
    "llamafw serve --rope-scaling ": {"none", "linear", "yarn"},
    "llamafw serve --ctx-size 512 --rope-scaling li": {"linear"},
    "llamafw serve -ctk iq": {"iq4_nl"},
    "llamafw serve -m mod": {"model.gguf"},
    "llamafw serve -np 2 -m mod": {"model.gguf"},
    "llamafw serve --plugin mod": {"model.gguf"},
    "llamafw chat --no-mark": {"--no-markdown"},
    "llamafw models rem": {"remove"},
    "llamafw plugin ": {"new", "check"},
    "llamafw plugin new sam": {"sampler"},
    "llamafw plugin check mod": {"model.gguf"},
    "llamafw completion ": {*SHELLS},
    "llamafw serve --api-prefix mod": set(),
}


@pytest.mark.parametrize("name", SHELLS)
def test_shell_completes(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shell(name)
    file = script(name, tmp_path, capsys)
    (tmp_path / "model.gguf").touch()
    commands, *offered = completions(name, file, ["llamafw ", *OFFERED], tmp_path)
    assert commands.keys() >= {*COMMANDS}
    assert {line: {*words} for line, words in zip(OFFERED, offered, strict=True)} == OFFERED


def test_fish_shows_descriptions_and_flags_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shell("fish")
    file = script("fish", tmp_path, capsys)
    lines = ["llamafw serve --escape", "llamafw serve -"]
    escape, flags = completions("fish", file, lines, tmp_path)
    assert r"in --prompt: \n, \r, \t, \', \", \\ and \xHH" in escape["--escape"]
    assert flags.keys() >= {"-c", "-ctk", "-ngl", "--ctx-size"}
    assert flags.keys().isdisjoint({"-k", "-g"})  # letters of longer flags


def test_flags_and_commands_of_plugins_are_completed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import llamafw.cli.completion as completion

    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from llamafw import hookimpl\n\n\n@hookimpl\ndef add_options(parser):\n"
        "    parser.add_argument('--mine', help='50%% of it')\n"
    )
    monkeypatch.setenv("LLAMAFW_PLUGINS", str(plugin))
    monkeypatch.setattr(completion, "plugin_commands", lambda: {"ask": print})
    text = script("bash", tmp_path, capsys).read_text("utf-8")
    assert re.search(r"_serve_option_strings=\(.* --mine ", text)
    assert re.search(r"_subparsers=\(.* ask\)", text)
    assert r"50\% of it" in script("zsh", tmp_path, capsys).read_text("utf-8")


@pytest.mark.parametrize("name", SHELLS)
def test_script_is_valid(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = script(name, tmp_path, capsys)
    text = file.read_text("utf-8")
    assert all(command in text for command in COMMANDS)
    subprocess.run([shell(name), "--no-execute" if name == "fish" else "-n", str(file)], check=True)
