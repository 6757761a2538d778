"""`llamafw completion`: the script for bash completes in a real bash; those for other shells are valid."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from llamafw.cli.completion import SHELLS
from llamafw.cli.main import COMMANDS, main

pytestmark = pytest.mark.slow

COMPLETE = r"""
set -u
source "$1"; shift
function=$(complete -p llamafw | sed -n 's/.*-F \([^ ]*\).*/\1/p')
COMP_WORDS=(llamafw "$@"); COMP_CWORD=$#; COMP_LINE="llamafw $*"; COMP_POINT=${#COMP_LINE}; COMPREPLY=()
"$function" llamafw "${@: -1}" "${COMP_WORDS[$#-1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""
"""Calls the function that bash would call when Tab is pressed after the given words."""


def shell(name: str) -> str:
    """Return the path of a shell; skip the test if it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def script(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Write the script for a shell to a file."""
    assert main(["completion", name]) == 0
    file = folder / f"completion.{name}"
    file.write_text(capsys.readouterr().out, "utf-8")
    return file


def test_bash_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = script("bash", tmp_path, capsys)
    (tmp_path / "model.gguf").touch()

    def complete(*words: str) -> set[str]:
        command = [shell("bash"), "--norc", "-c", COMPLETE, "bash", str(file), *words]
        result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        assert result.stderr == ""
        return set(result.stdout.split("\n")) - {""}

    assert complete("") >= {*COMMANDS}
    assert complete("ser") == {"serve"}
    assert complete("serve", "--rope-scal") == {"--rope-scale", "--rope-scaling"}
    assert complete("serve", "--rope-scaling", "") == {"none", "linear", "yarn"}
    assert complete("serve", "-m", "mod") == {"model.gguf"}
    assert complete("chat", "--no-mark") == {"--no-markdown"}
    assert complete("plugin", "") >= {"new", "check"}
    assert complete("models", "rem") == {"remove"}
    assert complete("completion", "") == {*SHELLS}


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


@pytest.mark.parametrize("name", [name for name in SHELLS if name != "bash"])
def test_scripts_for_other_shells_are_valid(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = script(name, tmp_path, capsys)
    text = file.read_text("utf-8")
    assert all(command in text for command in COMMANDS)
    subprocess.run([shell(name), "--no-execute" if name == "fish" else "-n", str(file)], check=True)
