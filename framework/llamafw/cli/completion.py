"""``llamafw completion``: print a script with which a shell completes commands, flags and their values."""

from __future__ import annotations

import argparse
import re

import shtab

from llamafw.cli.main import COMMANDS, find_command, plugin_commands
from llamafw.cli.new import KINDS
from llamafw.cli.parser import PARSER_ONLY, CommandParser, ParserMade
from llamafw.cli.plugin import COMMANDS as PLUGIN_COMMANDS
from llamafw.errors import LlamafwError
from llamafw.settings import options

SHELLS = ("bash", "zsh", "fish")
_FILES = (
    *("FILE", "FILES", "FILE:SCALE", "MODEL", "NAME|MODULE|FILE.py", "SRC", "DST"),
    *("NAME|PATH", "NAME|TEXT|FILE", "[MODEL] TEXT"),
)
_FOLDERS = ("FOLDER",)

EXAMPLE = """\
llamafw completion bash > ~/.local/share/bash-completion/completions/llamafw
llamafw completion zsh > ~/.zfunc/_llamafw
llamafw completion fish > ~/.config/fish/completions/llamafw.fish"""


def run(argv: list[str]) -> int:
    """Print the script."""
    parser = CommandParser(
        "llamafw completion",
        "Print a script that completes commands and flags, including those of installed plugins. Write it where the "
        "shell looks for such scripts, and again after you have installed plugins.",
        usage="llamafw completion {bash,zsh,fish}",
        example=EXAMPLE,
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell")
    args = parser.parse(argv)
    script = shtab.complete(all_commands(), shell=args.shell)
    print(_corrected_for_fish(script) if args.shell == "fish" else script)
    return 0


def all_commands() -> argparse.ArgumentParser:
    """Return a parser of the whole command line: each command is a subparser with its arguments."""
    root = argparse.ArgumentParser("llamafw", allow_abbrev=False)
    root.add_argument("--version", action="store_true", help="print the version")
    commands = root.add_subparsers(parser_class=argparse.ArgumentParser)
    for name, text in COMMANDS.items():
        if name == "plugin":
            _add_subcommands(commands.add_parser(name, help=text, allow_abbrev=False))
        else:
            _add(commands, name, text, [name])
    for name in plugin_commands():
        commands.add_parser(name, help="from a plugin", add_help=False)  # how it parses its arguments is not known
    return root


def _corrected_for_fish(script: str) -> str:
    """Return shtab's script with descriptions and flags that fish reads as they are meant.

    In single quotes, fish reads a backslash before a quote as an escape, so it reads a doubled one as a backslash. Its
    ``-s`` is for flags with one letter; other flags with one dash need ``-o``.
    """
    lines = []
    for line in script.splitlines():
        if line.startswith("complete "):
            definition, description, text = line.partition(" -d ")
            definition = re.sub(r" -s (?=\S\S)", " -o ", definition)
            line = definition + description + text.replace("\\", r"\\")
        lines.append(line)
    return "\n".join(lines)


def _add_subcommands(plugin: argparse.ArgumentParser) -> None:
    subcommands = plugin.add_subparsers(parser_class=argparse.ArgumentParser)
    for name, (_, text) in PLUGIN_COMMANDS.items():
        _add(subcommands, name, text, ["plugin", name])


def _add(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, words: list[str]) -> None:
    """Add a command with the arguments that its parser has."""
    made = _parser_of(words)
    parser = commands.add_parser(name, help=text, parents=[made] if made else [], add_help=False, allow_abbrev=False)
    for action in parser._actions:
        _describe_values(action)
        action.help = " ".join(str(action.help or "").replace("%%", "%").split()).replace("%", "%%")


def _parser_of(words: list[str]) -> CommandParser | None:
    """Return the parser that a command makes; None if a plugin that it needs is broken."""
    try:
        find_command(words[0])([*words[1:], PARSER_ONLY])
    except ParserMade as made:
        return made.parser
    except LlamafwError:
        return None
    raise AssertionError(f"`llamafw {' '.join(words)}` does not parse its arguments with CommandParser.parse")


def _describe_values(action: argparse.Action) -> None:
    """Tell shtab which values an argument can have."""
    option = options().get(action.dest)
    if option is not None and option.choices and action.choices is None and action.nargs != 0:
        action.choices = option.choices
    elif action.metavar == "KIND":
        action.choices = tuple(KINDS)
    if action.metavar in _FILES:
        action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab reads this attribute
    elif action.metavar in _FOLDERS:
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]  # as above
