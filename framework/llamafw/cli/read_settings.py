"""Make `Settings` from flags, environment variables and a configuration file, and load the plugins that they name."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llamafw.cli.config import merge, read_config
from llamafw.cli.parser import CommandParser, add_settings
from llamafw.cli.plugin_flags import collect_plugin_flags
from llamafw.cli.refused import check_environment
from llamafw.options import Option, convert, split_list
from llamafw.plugins import Plugins, plugin_settings
from llamafw.settings import Settings, from_environment, options

EARLY_SETTINGS = ("config", "plugin", "no_plugin", "plugin_strict", "plugin_option")
"""Settings that decide which plugins are loaded."""


def settings_from(
    args: argparse.Namespace,
    environ: Mapping[str, str] = os.environ,
    *,
    plugin_keys_checked: bool = False,
    **fixed: Any,
) -> Settings:
    """Return the settings that flags, environment variables and ``--config`` give.

    Flags take precedence over variables, and variables over the configuration file.

    Parameters
    ----------
    args : argparse.Namespace
        The parsed flags. Flags that are not settings of llamafw are put into ``Settings.extra``.
    environ : mapping
        The environment variables.
    plugin_keys_checked : bool
        True if the caller lets `collect_plugin_flags` check the keys of the file that are not flags of llamafw.
    **fixed
        Settings that take precedence over all sources.

    Raises
    ------
    SettingsError
        A variable or the file has a wrong value, or the file has an unknown key.
    """
    check_environment(environ)
    table = options()
    flags: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, value in vars(args).items():
        if name not in table:
            extra[name] = value
        elif value is not None:
            flags[name] = _convert_flag(table[name], value)
    flags |= fixed

    environment = from_environment(environ)
    config = flags.get("config", environment.get("config"))
    file, other_keys = read_config(Path(config)) if config else ({}, {})
    settings = with_load_mode(Settings(**{"extra": extra, **merge(file, environment, flags)}))
    if other_keys and not plugin_keys_checked:
        collect_plugin_flags(load_plugins(settings, tolerant=True), settings.config)
    return settings


def shared_settings_from(args: argparse.Namespace, names: Sequence[str], early: Settings, **fixed: Any) -> Settings:
    """Return the settings of a command that shares some with ``llamafw serve``.

    Parameters
    ----------
    args : argparse.Namespace
        What `parse_with_plugin_flags` returns.
    names : sequence of str
        The shared settings.
    early : Settings
        What `parse_early_flags` returns.
    **fixed
        Settings that take precedence over all sources.
    """
    given = argparse.Namespace(**{name: getattr(args, name) for name in names}, **args.plugin_settings)
    return settings_from(given, plugin_keys_checked=True, config=early.config, **fixed)


def with_load_mode(settings: Settings) -> Settings:
    """Return the settings with ``mmap`` and ``mlock`` as ``--load-mode`` says."""
    if settings.load_mode in (None, "auto"):
        return settings
    modes = str(settings.load_mode).split("+")
    return replace(settings, mmap="mmap" in modes, mlock="mlock" in modes)


def overridden_variables(args: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return a sentence for each environment variable that a flag overrides with another value."""
    table = options()
    environment = from_environment(environ)
    sentences = []
    for name, value in vars(args).items():
        if value is None or name not in environment:
            continue
        opt = table[name]
        if _convert_flag(opt, value) == environment[name]:
            continue
        variable = next((name for name in (opt.env, *opt.other_env) if name and environ.get(name)), opt.off_env)
        sentences.append(f"the environment variable {variable} is overridden by {opt.long_flag} on the command line")
    return sentences


def parse_early_flags(argv: Sequence[str]) -> tuple[Settings, list[str]]:
    """Return the settings that decide which plugins are loaded, and the arguments that are left to parse.

    Plugins add flags, so they are loaded before the other flags can be parsed.
    """
    parser = CommandParser("llamafw", "", add_help=False)
    add_settings(parser, EARLY_SETTINGS)
    args, rest = parser.parse_known_args(argv)
    settings = settings_from(args, plugin_keys_checked=True)
    early = {name: getattr(settings, name) for name in (*EARLY_SETTINGS, "plugin_tables")}
    return Settings(**early), rest


def load_plugins(settings: Settings, *, extra: Sequence[str] = (), tolerant: bool = False) -> Plugins:
    """Load the installed plugins, those that the settings name, and those in ``extra``."""
    return Plugins(
        extra=(*extra, *settings.plugin),
        block=settings.no_plugin,
        settings=plugin_settings(settings),
        strict=settings.plugin_strict,
        tolerant=tolerant,
    )


def _convert_flag(opt: Option, value: Any) -> Any:
    """Convert the value that argparse found for a setting: a text, or a list of texts."""
    if opt.repeat:
        return tuple(convert(opt, text, opt.long_flag) for text in split_list(opt, value))
    return convert(opt, value, opt.long_flag)
