"""Collect the flags that plugins add.

No two may be the same, and a configuration file can set their defaults.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llamafw.cli.config import as_list, read_config, unknown_key
from llamafw.cli.parser import CommandParser
from llamafw.cli.refused import HARMLESS
from llamafw.errors import PluginError, SettingsError
from llamafw.plugins import Plugins
from llamafw.settings import options

COMMAND_FLAGS = ("-h", "--help", "--usage", "--version", "-cl", "--cache-list", "--list-devices", *HARMLESS)
"""Flags of ``llamafw serve`` that are not settings."""


def collect_plugin_flags(
    plugins: Plugins, config: str | None = None, *, command: str = "llamafw", also_taken: Sequence[str] = ()
) -> list[argparse.ArgumentParser]:
    """Return one parser for each plugin that adds flags.

    Parameters
    ----------
    plugins : Plugins
        All plugins.
    config : str, optional
        Path of the configuration file, whose values become the defaults of these flags.
    command : str
        The command whose flags these are, for error messages.
    also_taken : sequence of str
        Flags of the command that are not settings, and the names of their values.

    Raises
    ------
    PluginError
        Two plugins, or a plugin and llamafw itself, add the same flag or setting; the message names both.
    SettingsError
        The file has an unknown key, or a value that its flag does not accept; the message names the file and the key.
    """
    flag_owners = {flag: "llamafw" for opt in options().values() for flag in (*opt.flags, *opt.off_flags)}
    flag_owners |= dict.fromkeys(COMMAND_FLAGS, "llamafw")
    field_owners = dict.fromkeys(options(), "llamafw")
    for name in also_taken:
        (flag_owners if name.startswith("-") else field_owners).setdefault(name, command)
    parsers: list[argparse.ArgumentParser] = []
    for plugin in list(plugins.records):
        parser = CommandParser("llamafw serve", "", add_help=False)
        parser._optionals.title = f"plugin {plugin}"
        for owner, _ in plugins.call_each("add_options", only=plugin, parser=parser):
            for action in parser._actions:
                _claim(flag_owners, action.option_strings, owner, "the flag")
                _claim(field_owners, [action.dest], owner, "the setting")
            parsers.append(parser)

    if config is not None:
        path = Path(config)
        _, values = read_config(path)
        _set_defaults(parsers, values, path)
    return parsers


def parse_with_plugin_flags(
    parser: CommandParser, argv: Sequence[str], plugins: Plugins, config: str | None
) -> argparse.Namespace:
    """Parse the flags of a command that runs a model, those of plugins included.

    Parameters
    ----------
    parser : CommandParser
        Has the flags of the command itself, and of the settings that it shares with ``llamafw serve``.
    argv : sequence of str
        The arguments after the name of the command.
    plugins : Plugins
        All plugins.
    config : str, optional
        Path of the configuration file; see `collect_plugin_flags`.

    Returns
    -------
    argparse.Namespace
        The values. ``plugin_settings`` is a dictionary of those that belong to plugins.

    Raises
    ------
    PluginError
        A plugin adds a flag that the command, llamafw or another plugin has.
    SettingsError
        An argument or the file is wrong.
    """
    own = [action for action in parser._actions if action.dest not in options()]
    taken = [name for action in own for name in (*action.option_strings, action.dest)]
    parser.add_flags_of(collect_plugin_flags(plugins, config, command=parser.prog, also_taken=taken))
    args = parser.parse(argv)
    theirs = vars(args).keys() - options().keys() - {action.dest for action in own}
    args.plugin_settings = {name: getattr(args, name) for name in theirs}
    return args


def _claim(owners: dict[str, str], names: Sequence[str], owner: str, kind: str) -> None:
    for name in names:
        if name in owners and owners[name] != owner:
            raise PluginError(f"{kind} {name} is added by both {owners[name]} and {owner}")
        owners[name] = owner


class _ReplaceableList(list[Any]):
    """The default of a flag that may be repeated.

    Flags on the command line replace it.

    argparse appends their values to a copy of the default, and a copy of this list is empty.
    """

    def __copy__(self) -> list[Any]:
        return []


def _set_defaults(parsers: Sequence[argparse.ArgumentParser], values: Mapping[str, Any], path: Path) -> None:
    """Make the values of a configuration file the defaults of the flags that have the same names."""
    actions = {
        flag[2:]: action
        for parser in parsers
        for action in parser._actions
        for flag in action.option_strings
        if flag.startswith("--")
    }
    for key, value in values.items():
        flag = key.replace("_", "-")
        if flag not in actions:
            raise unknown_key(path, key, actions)
        action = actions[flag]
        action.default = _default_for(action, f"--{flag}", value, f"{path}: {key}")
        action.required = False


def _default_for(action: argparse.Action, flag: str, value: Any, where: str) -> Any:
    """Convert a value in the file to a default of the action of ``flag``."""
    if action.nargs == 0:  # a flag without a value, such as --quiet or --no-color
        if not isinstance(value, bool):
            raise SettingsError(f"{where} must be true or false")
        if isinstance(action, argparse.BooleanOptionalAction):
            return value != flag.startswith("--no-")
        return action.const if value else action.default
    if isinstance(action, argparse._AppendAction) or action.nargs not in (None, "?"):
        return _ReplaceableList(_convert_single(action, item, where) for item in as_list(value))
    return _convert_single(action, value, where)


def _convert_single(action: argparse.Action, value: Any, where: str) -> Any:
    """Convert a single value in the file to the action's type."""
    flags = "/".join(action.option_strings)
    convert = action.type if callable(action.type) else str
    if isinstance(value, bool | list | dict) or (convert is str and not isinstance(value, str)):
        raise SettingsError(f"{where}: {value!r:.80} is not a value for {flags}")
    try:
        converted = convert(value if isinstance(value, str) else str(value))
    except (argparse.ArgumentTypeError, TypeError, ValueError) as error:
        raise SettingsError(f"{where}: {value!r:.80} is not a value for {flags}: {error}") from None
    if action.choices is not None and converted not in action.choices:
        raise SettingsError(f"{where}: {converted!r} is not one of {', '.join(map(str, action.choices))}")
    return converted
