"""The flags of ``llamafw chat`` and ``llamafw run``."""

from __future__ import annotations

import logging
from argparse import Action, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llamafw.cli.parser import CommandParser, add_settings
from llamafw.cli.plugin_flags import collect_plugin_flags
from llamafw.cli.read_settings import load_plugins, parse_early_flags, settings_from
from llamafw.errors import SettingsError
from llamafw.plugins import Plugins
from llamafw.settings import SERVER, Settings, options

OWN_FLAGS = ("--url", "--system", "--set", "--load", "--no-markdown", "-p", "--prompt", "-j", "--json-schema")
"""The flags of these commands that are not settings of ``llamafw serve``, or mean something else here."""

_OWN_NAMES = ("name", "text", "url", "system", "set", "load", "no_markdown")  # of their values
_NOT_HERE = {"host", "port", "alias", "prompt", "file", "binary_file", "escape", "system_prompt_file"}
_NOT_HERE |= {"json_schema", "json_schema_file"}
_ERRORS = 1  # of --verbosity
_WITH_URL = {"api_key", "config", "log_colors", "log_file", "verbose", "verbosity"}
"""Settings that have a meaning with ``--url``."""


def shared_settings() -> list[str]:
    """Return the settings of ``llamafw serve`` that these commands have too: those that do not concern HTTP."""
    return [name for name, opt in options().items() if opt.group != SERVER and name not in _NOT_HERE]


@dataclass(frozen=True, slots=True)
class Invocation:
    """What a command line asks for."""

    settings: Settings
    plugins: Plugins
    args: Namespace  # the flags of the command itself, such as ``url`` and ``prompt``

    @property
    def api_key(self) -> str | None:
        """The key that requests carry."""
        return self.settings.api_key[0] if self.settings.api_key else None


def make_parser(
    command: str, description: str, usage: str, example: str, plugins: Plugins, config: str | None
) -> CommandParser:
    """Return a parser with the flags that both commands have."""
    parser = CommandParser(f"llamafw {command}", description, usage=usage, example=example)
    parser.add_argument(
        "name",
        metavar="MODEL",
        nargs="?",
        help="the same as -m MODEL, or as -hf for a name like USER/REPO; with --url, the model that the server uses",
    )
    add = parser.add_argument_group("chat").add_argument
    add("--url", metavar="URL", help="send requests to the server at this address, instead of loading a model")
    add("--system", metavar="TEXT", help="system prompt")
    add(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="set a field of all requests, such as temperature=0.2; may be repeated",
    )
    add(
        "-p", "--prompt", metavar="TEXT", help="answer this text, followed by the piped input if there is any, and exit"
    )
    add_settings(parser, shared_settings())
    taken = (*OWN_FLAGS, *_OWN_NAMES)
    parser.add_flags_of(collect_plugin_flags(plugins, config, command=parser.prog, also_taken=taken))
    return parser


def parse(
    argv: Sequence[str],
    make: Callable[[Plugins, str | None], CommandParser],
    arrange: Callable[[Namespace, bool], None] = lambda args, has_model: None,
) -> Invocation:
    """Parse the command line of a command.

    Parameters
    ----------
    argv : sequence of str
        The arguments after the name of the command.
    make : callable
        ``make(plugins, config)`` returns the command's parser.
    arrange : callable
        ``arrange(args, has_model)`` may change the command's own arguments; ``has_model`` tells whether a flag names a
        model or a server.

    Raises
    ------
    SettingsError
        The command line, the environment or the configuration file is wrong.
    PluginError
        A plugin that the command depends on cannot be loaded.
    """
    early, rest = parse_early_flags(argv)
    logging.getLogger("llamafw").addHandler(logging.NullHandler())  # without one, warnings would be printed
    plugins = load_plugins(early)
    parser = make(plugins, early.config)
    own = {action.dest for action in parser._actions if {*action.option_strings} & {*OWN_FLAGS}}
    own |= {action.dest for action in parser._positionals._group_actions}
    args = parser.parse(rest, intermixed=True)
    flags = Namespace(**{name: value for name, value in vars(args).items() if name not in own})
    mine = Namespace(**{name: value for name, value in vars(args).items() if name in own})
    has_model = (flags.model or flags.hf_repo or flags.model_url) is not None
    arrange(mine, has_model or mine.url is not None)
    if mine.url is not None:
        _refuse_model_flags(parser, flags)
    settings = settings_from(
        flags, plugin_keys_checked=True, config=early.config, plugin=early.plugin, no_plugin=early.no_plugin
    )
    return Invocation(_adapted(settings, mine, flags, has_model=has_model), plugins, mine)


def _refuse_model_flags(parser: CommandParser, flags: Namespace) -> None:
    """Raise SettingsError for a flag that concerns a model in this process, also if a plugin has added it."""
    given = [
        opt.long_flag
        for name, opt in options().items()
        if getattr(flags, name, None) is not None and name not in _WITH_URL
    ]
    others = [action for action in parser._actions if action.option_strings and action.dest not in options()]
    given += [action.option_strings[-1] for action in others if _has_other_value(parser, action, flags)]
    if given:
        parser.error(f"{given[0]} is a setting of the server at --url; --set NAME=VALUE sets request fields")


def _has_other_value(parser: CommandParser, action: Action, flags: Namespace) -> bool:
    """Return whether a value in ``flags`` is not the default."""
    default = action.default
    if isinstance(default, str) and hasattr(flags, action.dest):
        default = parser._get_value(action, default)  # as argparse converts it
    return bool(getattr(flags, action.dest, default) != default)


def _adapted(settings: Settings, mine: Namespace, flags: Namespace, *, has_model: bool) -> Settings:
    """Return the settings of a server for one client in this process."""
    changes: dict[str, Any] = {"api_key_file": None, "api_prefix": "", "sleep_idle_seconds": -1}
    changes |= {"embedding": False, "reranking": False, "embedding_model": None, "reranking_model": None}
    if settings.parallel is None:
        changes["parallel"] = 1
    if flags.verbosity is None and settings.log_level == logging.INFO:  # the default; lines would disturb the chat
        changes["verbosity"] = _ERRORS
    if mine.url is None and mine.name is not None:
        if has_model:
            raise SettingsError(f"{mine.name} and -m, -hf or --model-url both name a model; use only one of them")
        changes |= {"model": None, "hf_repo": None, "model_url": None} | _named_model(mine.name)
    return replace(settings, **changes)


def _named_model(name: str) -> dict[str, str]:
    """Return the setting that a model's name on the command line stands for."""
    if "://" in name:
        return {"model_url": name}
    if name.count("/") == 1 and not Path(name).expanduser().exists() and not name.startswith((".", "~", "/")):
        return {"hf_repo": name}
    return {"model": name}
