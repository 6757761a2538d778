"""``llamafw plugin new`` and ``llamafw plugin check``: for those who write plugins. It knows the two by name only."""

from __future__ import annotations

from importlib import import_module

from llamafw.errors import SettingsError

COMMANDS = {
    "new": ("llamafw.cli.new", "begin a plugin: a package that works, with its tests"),
    "check": ("llamafw.testing.plugin_check", "hold a plugin to what all plugins of its kinds promise"),
}


def run(argv: list[str]) -> int:
    """Run one of the two."""
    if not argv or argv[0] in ("-h", "--help"):
        lines = "\n".join(f"  {name:6} {text}" for name, (_, text) in COMMANDS.items())
        print(f"usage: llamafw plugin COMMAND ...\n\n{lines}\n\n`llamafw plugin COMMAND --help` says more.")
        return 0
    if argv[0] not in COMMANDS:
        raise SettingsError(f"plugin: there is no command {argv[0]!r}; there are {' and '.join(COMMANDS)}")
    code: int = import_module(COMMANDS[argv[0]][0]).run(argv[1:])
    return code
