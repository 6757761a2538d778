"""Real shells that complete a command line as if Tab had been pressed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

BASH = r"""
set -u
source "$1"; shift
function=$(complete -p llamafw | sed -n 's/.*-F \([^ ]*\).*/\1/p')
for COMP_LINE in "$@"; do
    read -ra COMP_WORDS <<< "$COMP_LINE"
    [[ $COMP_LINE == *' ' ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMP_POINT=${#COMP_LINE}; COMPREPLY=()
    "$function" llamafw "${COMP_WORDS[$COMP_CWORD]}" "${COMP_WORDS[$COMP_CWORD - 1]}"
    printf '%s\n' "${COMPREPLY[@]}" '<end>'
done
"""
"""Calls the function that bash would call when Tab is pressed after each line."""

FISH = r"""
source $argv[1]
for line in $argv[2..]
    complete --do-complete $line
    echo '<end>'
end
"""

ZSHRC = r"""
fpath=("$ZDOTDIR/functions" $fpath)
autoload -Uz compinit
compinit -u -D
compadd() {
    local -a matches
    (( ${@[(I)-[OAD]]} )) || { builtin compadd -A matches "$@"; found+=($matches) }
    builtin compadd "$@"
}
show() { found=(); zle complete-word; print -r -- "<<${(pj:\t:)found}>>"; BUFFER= }
zle -N show
bindkey '^T' show
unsetopt AUTO_LIST
PROMPT=
print -r -- "<<ready>>"
"""
"""Makes Ctrl-T complete a line and print what completion functions have found."""


def shell(name: str) -> str:
    """Return the path of a shell; skip the test if it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def completions(name: str, script: Path, lines: Sequence[str], folder: Path) -> list[dict[str, str]]:
    """Return what a shell offers after each line: words and, where it shows them, their descriptions.

    Parameters
    ----------
    name : str
        "bash", "zsh" or "fish".
    script : Path
        The script that ``llamafw completion`` has written.
    lines : sequence of str
        Command lines, without Tab.
    folder : Path
        The folder in which the shell runs, and below which it has its settings.
    """
    home = folder / ".home"
    home.mkdir(exist_ok=True)
    environ = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "XDG_DATA_HOME": str(home)}
    if name == "zsh":
        return _of_zsh(script, lines, folder, {**environ, "ZDOTDIR": str(home), "TERM": "dumb"})

    command = ["--norc", "-c", BASH, "bash"] if name == "bash" else ["--no-config", "-c", FISH]
    arguments = [shell(name), *command, str(script), *lines]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=folder, env=environ)
    assert done.stderr == ""
    parts = done.stdout.split("<end>\n")[:-1]
    offered = [[line.partition("\t") for line in part.splitlines() if line] for part in parts]
    return [{word: description for word, _, description in words} for words in offered]


def _of_zsh(script: Path, lines: Sequence[str], folder: Path, environ: Mapping[str, str]) -> list[dict[str, str]]:
    """Return what zsh offers, in a terminal of its own."""
    import pty  # Windows lacks it

    home = Path(environ["ZDOTDIR"])
    (home / "functions").mkdir(exist_ok=True)
    shutil.copy(script, home / "functions/_llamafw")
    (home / ".zshrc").write_text(ZSHRC, "utf-8")
    terminal, inside = pty.openpty()
    command = [shell("zsh"), "--interactive"]
    session = {"cwd": folder, "env": dict(environ), "start_new_session": True}
    with subprocess.Popen(command, stdin=inside, stdout=inside, stderr=inside, **session) as process:  # type: ignore[call-overload]  # mypy cannot see what is in the dict
        os.close(inside)
        try:
            _read_shown(terminal)
            offered = []
            for line in lines:
                os.write(terminal, f"{line}\x14".encode())  # Ctrl-T
                offered.append(dict.fromkeys(filter(None, _read_shown(terminal).split("\t")), ""))
        finally:
            process.kill()
            os.close(terminal)
    return offered


def _read_shown(terminal: int) -> str:
    """Return what zsh shows next between ``<<`` and ``>>``."""
    text = b""
    while not (match := re.search(rb"<<(.*?)>>", text, re.S)):
        text += os.read(terminal, 1 << 16)
    return match[1].decode()
