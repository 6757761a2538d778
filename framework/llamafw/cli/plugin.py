"""``llamafw plugin``: the commands for authors of plugins, ``new`` and ``check``."""

from __future__ import annotations

from importlib import import_module

from llamafw.errors import SettingsError, did_you_mean

COMMANDS = {
    "new": ("llamafw.cli.new", "create a package for a new plugin, with tests"),
    "check": ("llamafw.testing.plugin_check", "check that a plugin follows the rules"),
}
"""Name → module, help."""


def run(argv: list[str]) -> int:
    """Run one of the commands; return its exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        lines = "\n".join(f"  {name:6} {text}" for name, (_, text) in COMMANDS.items())
        print(
            f"usage: llamafw plugin COMMAND [OPTIONS]\n\nCreate or check a plugin.\n\ncommands:\n{lines}\n\n"
            "Run `llamafw plugin COMMAND --help` for the options of a command.\n\n"
            "example:\n  llamafw plugin new sampler top-a"
        )
        return 0

    if argv[0] not in COMMANDS:
        hint = did_you_mean(argv[0], COMMANDS) or f"; the commands are {' and '.join(COMMANDS)}"
        raise SettingsError(f"plugin: unknown command {argv[0]!r}{hint}")
    code: int = import_module(COMMANDS[argv[0]][0]).run(argv[1:])
    return code
