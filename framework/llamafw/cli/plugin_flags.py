"""The flags that plugins add: who owns which, and what a configuration file sets them to."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llamafw.cli.config import from_file, keys, no_setting
from llamafw.cli.parser import Parser
from llamafw.errors import PluginError, SettingsError
from llamafw.plugins import Plugins
from llamafw.settings import options

OURS = ("-h", "--help", "--usage", "--version")


def plugin_flags(plugins: Plugins, config: str | None = None) -> list[argparse.ArgumentParser]:
    """Return the flags of plugins, as parents of a parser; what the file ``config`` sets them to are their defaults.

    Raises
    ------
    PluginError
        Two sides want the same flag; it names both.
    SettingsError
        The file has a key that is no flag, or a value that the flag does not take; it names the file and the key.
    """
    owners = {flag: "llamafw" for opt in options().values() for flag in (*opt.flags, *opt.off)}
    owners |= dict.fromkeys(OURS, "llamafw")
    names = dict.fromkeys(options(), "llamafw")
    parsers: list[argparse.ArgumentParser] = []
    for plugin in list(plugins.found):
        parser = Parser("llamafw serve", "", add_help=False)
        for owner, _ in plugins.each("add_options", only=plugin, parser=parser):
            for action in parser._actions:
                _claim(owners, action.option_strings, owner, "the flag")
                _claim(names, [action.dest], owner, "the setting")
            parsers.append(parser)
    others: dict[str, Any] = {}
    if config is not None:
        from_file(Path(config), others)
    if others:
        _set_defaults(parsers, others, Path(config or ""))
    return parsers


def _claim(owners: dict[str, str], names: Sequence[str], owner: str, what: str) -> None:
    for name in names:
        if name in owners and owners[name] != owner:
            raise PluginError(f"{what} {name} is added by both {owners[name]} and {owner}")
        owners[name] = owner


class _Replaced(list[Any]):
    """A default for a flag that may be repeated: its first value on the command line replaces it."""

    def __copy__(self) -> list[Any]:
        return []


def _set_defaults(parsers: Sequence[argparse.ArgumentParser], given: Mapping[str, Any], path: Path) -> None:
    table = {
        flag[2:]: action
        for parser in parsers
        for action in parser._actions
        for flag in action.option_strings
        if flag.startswith("--")
    }
    for key, value in given.items():
        flag = key.replace("_", "-")
        if flag not in table:
            raise no_setting(path, key, [*keys(), *table])
        action = table[flag]
        action.default, action.required = _value(action, f"--{flag}", value, f"{path}: {key}"), False


def _value(action: argparse.Action, flag: str, value: Any, where: str) -> Any:
    if action.nargs == 0:  # --quiet, --no-color
        if not isinstance(value, bool):
            raise SettingsError(f"{where} must be true or false")
        if isinstance(action, argparse.BooleanOptionalAction):
            return value != flag.startswith("--no-")
        return action.const if value else action.default
    if isinstance(action, argparse._AppendAction) or action.nargs not in (None, "?"):
        return _Replaced(_one(action, one, where) for one in (value if isinstance(value, list) else [value]))
    return _one(action, value, where)


def _one(action: argparse.Action, value: Any, where: str) -> Any:
    flags = "/".join(action.option_strings)
    kind = action.type if callable(action.type) else str
    if isinstance(value, bool | list | dict) or (kind is str and not isinstance(value, str)):
        raise SettingsError(f"{where}: {value!r:.80} is not what {flags} takes")
    try:
        read = kind(value if isinstance(value, str) else str(value))
    except (argparse.ArgumentTypeError, TypeError, ValueError) as error:
        raise SettingsError(f"{where}: {value!r:.80} is not what {flags} takes: {error}") from None
    if action.choices is not None and read not in action.choices:
        raise SettingsError(f"{where}: {read!r} is none of {', '.join(map(str, action.choices))}")
    return read
