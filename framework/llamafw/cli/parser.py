"""Parse command lines with argparse: flags from the table of settings, one-line errors, suggestions for typos."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from llamafw.cli.refused import REFUSED_FLAGS
from llamafw.errors import SettingsError
from llamafw.near_names import nearest
from llamafw.options import Option
from llamafw.settings import Settings, options

PARSER_ONLY = "--show-parser"
"""An argument with which a command only makes its parser: `CommandParser.parse` then raises `ParserMade`."""


class ParserMade(Exception):  # not an error
    """A command has made its parser, which is the attribute ``parser``."""

    def __init__(self, parser: CommandParser) -> None:
        super().__init__(parser.prog)
        self.parser = parser


class CommandParser(argparse.ArgumentParser):
    """An argument parser that raises `SettingsError` instead of exiting, and suggests a flag for a mistyped one.

    Parameters
    ----------
    prog : str
        The command, such as ``llamafw pull``.
    description : str
        A sentence about the command, for ``--help``.
    example : str, optional
        One or more command lines, one per line, that ``--help`` shows at its end.
    usage : str, optional
        The first line of ``--help``; by default, a list of all flags.
    add_help : bool
        Whether to add ``--help``.
    """

    def __init__(
        self, prog: str, description: str, *, example: str = "", usage: str | None = None, add_help: bool = True
    ) -> None:
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            epilog=f"example:\n{textwrap.indent(example, '  ')}" if example else None,
            add_help=add_help,
            allow_abbrev=False,
            formatter_class=_HelpFormatter,
        )
        self._negative_number_matcher = re.compile(r"-\.?\d")  # argparse's takes -1e-3 and -5=10 for flags

    def error(self, message: str) -> NoReturn:
        """Raise SettingsError with argparse's message in the words of llamafw."""
        message = re.sub(r"^argument ([^:]+): expected one argument$", r"\1 needs a value", message)
        command = self.prog.removeprefix("llamafw").strip()
        raise SettingsError(f"{command}: {message}".removeprefix(": ").replace("argument -", "-"))

    def parse(self, argv: Sequence[str], *, intermixed: bool = False) -> argparse.Namespace:
        """Return the parsed arguments; SettingsError if one is unknown.

        Parameters
        ----------
        argv : sequence of str
            The arguments.
        intermixed : bool
            Whether flags may stand between arguments that are not flags.
        """
        if PARSER_ONLY in argv:
            raise ParserMade(self)
        args, unknown = (self.parse_known_intermixed_args if intermixed else self.parse_known_args)(argv)
        if unknown:
            self._refuse(unknown[0])
        return args

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:  # type: ignore[override]  # argparse has overloads for other namespaces
        """Return the parsed arguments and a list of unknown ones; underscores in long flags count as hyphens."""
        words = [_with_hyphens(word) for word in (sys.argv[1:] if args is None else args)]
        return super().parse_known_args(_with_joint_values(words), namespace)

    def add_flags_of(self, parsers: Iterable[argparse.ArgumentParser]) -> None:
        """Add all arguments of other parsers, and keep the groups that they are in."""
        for parser in parsers:
            self._add_container_actions(parser)
            self._defaults.update(parser._defaults)

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        """Return no flags: otherwise argparse would read a mistyped ``-fq`` as ``-f q``."""
        return []

    def _refuse(self, word: str) -> NoReturn:
        """Raise SettingsError for an unknown argument."""
        flag = word.split("=", 1)[0]
        if flag in REFUSED_FLAGS:
            self.error(f"{flag}: {REFUSED_FLAGS[flag]}")
        if not flag.startswith("-"):
            hint = "; use -m FILE or -hf USER/REPO to name a model" if "-m" in self._option_string_actions else ""
            self.error(f"unexpected argument {word}{hint}")
        near = nearest_flag(flag, self._option_string_actions)
        hint = f"did you mean {near}?" if near else f"`{self.prog} --help` lists the flags"
        self.error(f"unknown flag {flag}; {hint}")


def nearest_flag(flag: str, known: Iterable[str]) -> str | None:
    """Return the known flag that a mistyped one was probably meant to be; None if no flag is near."""
    flags = list(known)
    for candidate in flags:
        if candidate.lstrip("-") == flag.lstrip("-"):  # -port for --port
            return candidate

    is_long = flag.startswith("--") or len(flag) > len("-xyz")
    near = nearest(flag, [candidate for candidate in flags if candidate.startswith("--") == is_long])
    return near[0] if near else None


def add_settings(parser: argparse.ArgumentParser, names: Sequence[str] | None = None) -> None:
    """Add the flags of the named fields of `Settings` (default: all) to a parser, in groups."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, opt in options().items():
        if names is not None and name not in names:
            continue
        if opt.group not in groups:
            groups[opt.group] = parser.add_argument_group(opt.group)
        add_flag = groups[opt.group].add_argument
        add_flag(*opt.flags, dest=name, help=_help_text(name, opt), default=None, **_argparse_options(opt))
        if opt.off_flags:
            add_flag(*opt.off_flags, dest=name, help=_off_help_text(opt), action="store_const", const="false")


class _HelpFormatter(argparse.HelpFormatter):
    """Formats help like argparse, but shows a value once after all names of a flag, and keeps indented lines."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=110)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = (
            [line] if line.startswith(" ") else textwrap.wrap(line, width, break_on_hyphens=False) or [""]
            for line in text.splitlines()
        )
        return "\n".join(indent + part for parts in lines for part in parts)


def _argparse_options(opt: Option) -> dict[str, Any]:
    if opt.type is bool:
        return {"action": "store_const", "const": "true"}
    bare = {} if opt.bare_value is None else {"nargs": "?", "const": opt.bare_value}
    return {"action": "append" if opt.repeat else "store", "metavar": opt.metavar, **bare}


def _help_text(name: str, opt: Option) -> str:
    text, default = opt.help_and_default(Settings.__dataclass_fields__[name].default)
    if opt.choices:
        text += f" [{', '.join(opt.choices)}]"
    if default and default != "off":
        text += f" (default: {default})"
    if opt.env:
        text += f" [env: {opt.env}]"
    return text.replace("%", "%%")


def _off_help_text(opt: Option) -> str:
    return f"turn {opt.long_flag} off" + (f" [env: {opt.off_env}]" if opt.off_env else "")


def _with_joint_values(words: list[str]) -> list[str]:
    """Return ``--lora-scaled FILE 0.5`` as ``--lora-scaled FILE:0.5``, as llama-server reads both."""
    joints = {flag: opt.joint for opt in options().values() if opt.joint for flag in opt.flags}
    joined, i = [], 0
    while i < len(words):
        value = words[i : i + 3]
        if len(value) == 3 and (joint := joints.get(value[0])) and re.fullmatch(r"-?[\d.]+(e-?\d+)?", value[2]):
            value = [value[0], f"{value[1]}{joint}{value[2]}"]
            i += 1
        else:
            value = value[:1]
        i += len(value)
        joined += value
    return joined


def _with_hyphens(word: str) -> str:
    """Return ``--ctx_size`` as ``--ctx-size``, as llama-server reads it."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value
