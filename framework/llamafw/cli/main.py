"""Find the command that is named on the command line, and run it.

The module of a command is imported only when the command runs, which keeps ``llamafw --help`` fast.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from importlib import import_module

from llamafw.errors import LlamafwError, PluginError, SettingsError, did_you_mean

Command = Callable[[list[str]], int]

COMMANDS = {
    "serve": "serve a model over HTTP",
    "chat": "chat with a model in the terminal",
    "run": "print the answer to one prompt",
    "ps": "list the running servers",
    "stop": "stop running servers",
    "pull": "download a model; list and remove downloaded models",
    "models": "list, show and remove downloaded models",
    "fit": "print how much memory a model needs",
    "bench": "measure how fast a model runs",
    "inspect": "print what a model file has, and what runs it",
    "convert": "write a checkpoint of Hugging Face as a GGUF file",
    "quantize": "write a model with rounded tensors",
    "imatrix": "measure which weights of a model matter, for better rounding",
    "cvector": "make a control vector from pairs of prompts",
    "perplexity": "measure how well a model predicts a text",
    "plugins": "list the plugins and what they register",
    "plugin": "create or check a plugin",
    "graph": "print the operators of a model",
    "spec": "print the API document; compare it with an older one",
    "contract-test": "test a server against its API document",
    "completion": "print a script that completes commands and flags in a shell",
    "version": "print the version",
}
"""The commands of llamafw itself → help. The module of each has ``run(argv: list[str]) -> int``."""

MODULES = {"contract-test": "llamafw.testing.contract"}
"""Modules of the commands that are not in `llamafw.cli`."""

_FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}


def main(argv: list[str] | None = None) -> int:
    """Run ``llamafw`` with arguments, by default those of the process; return the exit code.

    The code is 0 after success, 2 after a usage error, 1 after another failure and 130 after Ctrl-C. An error is one
    line on stderr.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(_help_text())
        return 0

    name = "version" if argv[0] == "--version" else argv[0]
    try:
        code = find_command(name)(argv[1:])
        sys.stdout.flush()  # if this fails when Python exits, the message is not ours
        return code
    except LlamafwError as error:
        print(f"llamafw: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the program that reads the output, such as `head`, has exited
        _discard_output()
        return 0
    except OSError as error:
        if error.errno not in _FULL:
            raise
        _discard_output()
        print(f"llamafw: the output cannot be written: {error.strerror}", file=sys.stderr)
        return 1


def _discard_output() -> None:
    """Write nothing to stdout any more, also not what it has in its buffer."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def find_command(name: str) -> Command:
    """Return the function of a command, which is llamafw's own or a plugin's."""
    if name in COMMANDS:
        run: Command = import_module(MODULES.get(name, f"llamafw.cli.{name}")).run
        return run

    from_plugins = plugin_commands()
    if name in from_plugins:
        return from_plugins[name]
    hint = did_you_mean(name, [*COMMANDS, *from_plugins]) or "; `llamafw --help` lists the commands"
    raise SettingsError(f"unknown command {name!r}{hint}")


def plugin_commands() -> dict[str, Command]:
    """Return the commands of plugins by name; PluginError if one has the name of a command of llamafw itself."""
    from llamafw.plugins import Plugins

    registry = Plugins(tolerant=True).registry("command")
    for name in registry:
        if name in COMMANDS:
            raise PluginError(f"plugin {registry.owner(name)} registers {name!r}, which is a command of llamafw itself")
    return dict(registry)


def _help_text() -> str:
    commands = {**COMMANDS, **dict.fromkeys(plugin_commands(), "from a plugin")}
    width = max(map(len, commands)) + 1
    lines = "\n".join(f"  {name:{width}} {text}" for name, text in commands.items())
    return (
        "usage: llamafw COMMAND [OPTIONS]\n\n"
        "Serve large language models over HTTP, with the APIs of OpenAI and llama-server.\n\n"
        f"commands:\n{lines}\n\n"
        "Run `llamafw COMMAND --help` for the options of a command.\n\n"
        "example:\n  llamafw serve -m model.gguf --port 8080"
    )
