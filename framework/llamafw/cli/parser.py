"""From flags, environment and a file to `Settings`: argparse made from the table in `llamafw.settings`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from llamafw.cli.config import from_file, merge
from llamafw.cli.refused import REFUSED, check_environment
from llamafw.errors import SettingsError
from llamafw.options import Option, convert
from llamafw.plugins import Plugins, given_options
from llamafw.settings import Settings, from_environment, options


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `SettingsError`, with a suggestion for a flag that does not exist."""

    def __init__(
        self, prog: str, description: str, *, add_help: bool = True, parents: Sequence[argparse.ArgumentParser] = ()
    ) -> None:
        super().__init__(
            prog=prog,
            description=description,
            add_help=add_help,
            parents=parents,
            allow_abbrev=False,
            formatter_class=_HelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{self.prog.removeprefix('llamafw ')}: {message}")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Return the parsed flags; underscores in long flags count as hyphens."""
        given, unknown = self.parse_known_args([_hyphens(word) for word in argv])
        if unknown:
            self._refuse(unknown[0])
        return given

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        """Let no flag stand for the start of a word: a mistyped ``-fq`` is not ``-f q``."""
        return []

    def _refuse(self, word: str) -> NoReturn:
        flag = word.split("=", 1)[0]
        if flag in REFUSED:
            self.error(f"{flag}: {REFUSED[flag]}")
        near = get_close_matches(flag, self._option_string_actions, n=1) if flag.startswith("-") else []
        what = "unknown flag" if flag.startswith("-") else "unexpected argument"
        self.error(f"{what} {flag}{f'; did you mean {near[0]}?' if near else ''}")


class _HelpFormatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=110)


def add_settings(parser: argparse.ArgumentParser, names: Sequence[str] | None = None) -> None:
    """Add the flags of the named fields of `Settings` (default: all), in groups."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, opt in options().items():
        if names is None or name in names:
            group = groups.get(opt.group) or groups.setdefault(opt.group, parser.add_argument_group(opt.group))
            group.add_argument(*opt.flags, dest=name, help=_help(name, opt), default=None, **_action(opt))
            if opt.off:
                group.add_argument(*opt.off, dest=name, help=_help_off(opt), action="store_const", const="false")


def settings_from(
    given: argparse.Namespace, environ: Mapping[str, str] = os.environ, *, checked: bool = False, **fixed: Any
) -> Settings:
    """Return the settings: flags win over environment variables, these over ``--config``, this over defaults.

    Parameters
    ----------
    checked : bool
        Keys of the file that are no flags of our own are, or will be, looked at elsewhere.
    **fixed
        What holds whatever any of them says.
    """
    table = options()
    check_environment(environ)
    flags: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, value in vars(given).items():
        if name not in table:
            extra[name] = value
        elif value is not None:
            flags[name] = _converted(table[name], value)
    others: dict[str, Any] = {}
    settings = Settings(**{"extra": extra} | _all_sources(flags | fixed, environ, others))
    if others and not checked:
        from llamafw.cli.plugin_flags import plugin_flags  # which needs the parser

        plugin_flags(load_plugins(settings, tolerant=True), settings.config)
    return settings


def overruled(given: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return a sentence for each environment variable that a flag wins over with another value."""
    table, environment = options(), from_environment(environ)
    found = []
    for name, value in vars(given).items():
        if value is None or name not in environment or _converted(opt := table[name], value) == environment[name]:
            continue
        variable = opt.env if opt.env and environ.get(opt.env) else opt.off_env
        found.append(f"{variable} is set, but {max(opt.flags, key=len)} on the command line wins")
    return found


def split_plugin_flags(argv: Sequence[str]) -> tuple[Settings, list[str]]:
    """Return settings with ``--config`` and those that say which plugins to load alone, and the other arguments.

    Plugins add flags, so they must be loaded before the other flags can be read.
    """
    parser = Parser("llamafw", "", add_help=False)
    add_settings(parser, ["config", "plugin", "no_plugin", "plugin_strict", "plugin_option"])
    given, rest = parser.parse_known_args([_hyphens(word) for word in argv])
    settings = settings_from(given, checked=True)
    wanted = {name: getattr(settings, name) for name in (*vars(given), "plugin_tables")}
    return Settings(**wanted), rest


def load_plugins(settings: Settings, *, extra: Sequence[str] = (), tolerant: bool = False) -> Plugins:
    """Return the plugins that the settings ask for, and ``extra``."""
    return Plugins(
        extra=(*extra, *settings.plugin),
        block=settings.no_plugin,
        options=given_options(settings),
        strict=settings.plugin_strict,
        tolerant=tolerant,
    )


def _all_sources(flags: Mapping[str, Any], environ: Mapping[str, str], others: dict[str, Any]) -> dict[str, Any]:
    environment = from_environment(environ)
    file = flags.get("config", environment.get("config"))
    return merge(from_file(Path(file), others) if file else {}, environment, flags)


def _action(opt: Option) -> dict[str, Any]:
    if opt.type is bool:
        return {"action": "store_const", "const": "true"}
    bare = {} if opt.bare is None else {"nargs": "?", "const": opt.bare}
    return {"action": "append" if opt.repeat else "store", "metavar": opt.metavar, **bare}


def _converted(opt: Option, value: Any) -> Any:
    flag = max(opt.flags, key=len)
    return tuple(convert(opt, one, flag) for one in value) if opt.repeat else convert(opt, value, flag)


def _help(name: str, opt: Option) -> str:
    text = opt.help.replace("%", "%%")
    default = Settings.__dataclass_fields__[name].default
    if "default:" not in text and default not in (None, (), False):
        text += f" (default: {default})"
    if opt.choices:
        text += f" [{', '.join(opt.choices)}]"
    return text + (f" [env: {opt.env}]" if opt.env else "")


def _help_off(opt: Option) -> str:
    return f"not {max(opt.flags, key=len)}" + (f" [env: {opt.off_env}]" if opt.off_env else "")


def _hyphens(word: str) -> str:
    """Return ``--ctx_size`` as ``--ctx-size``, as llama-server reads it."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value
