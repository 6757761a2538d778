"""``llamafw COMMAND``: find the command and run it. It knows the commands by name only, so that start-up is quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module

from llamafw.errors import LlamafwError, PluginError, SettingsError, did_you_mean

COMMANDS = {
    "serve": "answer requests over HTTP",
    "pull": "fetch a model",
    "bench": "measure how fast a model runs",
    "plugins": "list the plugins and what they registered",
    "spec": "print the API document",
    "plugin": "begin a plugin, or check one",
    "contract-test": "hold a running server against its own API document",
    "version": "print the version",
}
"""Each is the module `llamafw.cli.NAME`, or that of `ELSEWHERE`, with ``run(argv: list[str]) -> int``."""

ELSEWHERE = {"contract-test": "llamafw.testing.contract"}
"""Commands that bring what tests need."""


def main(argv: list[str] | None = None) -> int:
    """Run ``llamafw`` and return its exit code: 0, or 1 after one line on stderr."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0
    name = {"--version": "version"}.get(argv[0], argv[0])
    try:
        return find_command(name)(argv[1:])
    except LlamafwError as error:
        print(f"llamafw: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output, `head` for one, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def find_command(name: str) -> Callable[[list[str]], int]:
    """Return the command ``name``, ours or a plugin's."""
    if name in COMMANDS:
        run: Callable[[list[str]], int] = import_module(ELSEWHERE.get(name, f"llamafw.cli.{name}")).run
        return run
    others = _plugin_commands()
    if name in others:
        return others[name]
    raise SettingsError(f"there is no command {name!r}{did_you_mean(name, [*COMMANDS, *others])}")


def _plugin_commands() -> dict[str, Callable[[list[str]], int]]:
    from llamafw.plugins import Plugins

    registry = Plugins(tolerant=True).registry("command")
    for name in registry:
        if name in COMMANDS:
            raise PluginError(f"plugin {registry.owner(name)} registers the command {name!r}, which is llamafw's own")
    return dict(registry)


def _usage() -> str:
    others = _plugin_commands()
    lines = [f"  {name:13} {text}" for name, text in COMMANDS.items()]
    lines += [f"  {name:13} (of a plugin)" for name in others]
    commands = "\n".join(lines)
    return f"usage: llamafw COMMAND ...\n\n{commands}\n\n`llamafw COMMAND --help` says more."
