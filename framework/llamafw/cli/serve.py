"""``llamafw serve``: find or download the model, then serve it over HTTP."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from llamafw.cli.logs import set_up_logging
from llamafw.cli.parser import CommandParser, add_settings
from llamafw.cli.plugin_flags import collect_plugin_flags
from llamafw.cli.pull import downloads_table
from llamafw.cli.read_settings import load_plugins, overridden_variables, parse_early_flags, settings_from
from llamafw.cli.refused import add_harmless_flags
from llamafw.cli.version import devices_table, version_line
from llamafw.errors import SettingsError
from llamafw.models.find import find_model
from llamafw.plugins import Plugins
from llamafw.serving import LoadedModel
from llamafw.settings import Settings

SWITCH_INTERVAL = 0.0002
"""Seconds after which a thread that waits for the GIL gets it. The engine thread needs it rarely, but then without
delay: with Python's default of 5 ms, writing events to clients delayed the next forward pass, and 16 streams were a
sixth slower."""

RARE_COLLECTIONS = (50_000, 20, 100)
"""Thresholds of the garbage collector until the model is loaded. Starting makes hundreds of thousands of objects, and
nearly all of them stay: with Python's thresholds, looking for garbage took a sixth of the time."""

EXAMPLE = """\
llamafw serve -m model.gguf -c 8192 -np 4
llamafw serve -hf USER/REPO:Q4_K_M --host 0.0.0.0 --port 8000 --api-key KEY"""


def run(argv: list[str]) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code."""
    thresholds = gc.get_threshold()
    if thresholds[0]:  # 0: collections are switched off
        gc.set_threshold(*RARE_COLLECTIONS)
    rare = gc.get_threshold()  # some versions of Python ignore the third

    def restore_thresholds() -> None:
        if gc.get_threshold() == rare:  # a plugin may have chosen others
            gc.set_threshold(*thresholds)

    try:
        return _serve(argv, restore_thresholds)
    finally:
        restore_thresholds()


def _serve(argv: list[str], on_loaded: Callable[[], None]) -> int:
    """Serve as `run` does; call ``on_loaded`` when the model is loaded."""
    settings, plugins, overridden = parse_command_line(argv)
    set_up_logging(settings)
    log = logging.getLogger("llamafw")
    plugins.log_disabled()
    for sentence in overridden:
        log.warning(sentence)
    if not settings.jinja:
        log.warning("--no-jinja has no effect: chat templates are always rendered with Jinja")

    from llamafw.server.run import serve  # a slow import, which --help does not need

    load = prepare_model(settings, plugins, log.info)
    sys.setswitchinterval(SWITCH_INTERVAL)

    def load_model() -> LoadedModel:
        model = load()
        on_loaded()
        return model

    return serve(settings, plugins, load_model)


def prepare_model(settings: Settings, plugins: Plugins, log: Callable[[str], None]) -> Callable[[], LoadedModel]:
    """Find or download the model, check what can be checked before it is loaded, and return a function that loads it.

    Parameters
    ----------
    settings : Settings
        All settings.
    plugins : Plugins
        All plugins.
    log : callable
        Called with lines about the progress of loading.

    Raises
    ------
    SettingsError
        A setting is wrong, or does not fit the model.
    ModelError, DownloadError
        The model cannot be found, downloaded or read.
    """
    from llamafw.engine.load import load_model  # slow imports, which --help does not need
    from llamafw.engine.side_models import check_memory_of_all, find_side_models, load_models
    from llamafw.engine.start_checks import check_names, open_and_check
    from llamafw.engine.startup_inputs import read_startup_inputs

    check_names(settings, plugins)
    inputs = read_startup_inputs(settings)
    path = find_model(settings)
    model = open_and_check(path, settings, plugins)
    others = find_side_models(settings, plugins)
    check_memory_of_all(settings, model, others, plugins)
    load_first = partial(load_model, path, settings, plugins, log, inputs, model)
    return partial(load_models, load_first, others, plugins, log)


def parse_command_line(argv: list[str]) -> tuple[Settings, Plugins, list[str]]:
    """Return the settings, the plugins, and a sentence for each environment variable that a flag overrides.

    Raises
    ------
    SettingsError
        The command line, the environment or the configuration file is wrong.
    PluginError
        A plugin that start-up depends on cannot be loaded.
    """
    early, rest = parse_early_flags(argv)
    plugins = load_plugins(early)
    parser = _make_parser(plugins, early.config)
    try:
        args = parser.parse(rest)
    except SettingsError:
        plugins.log_disabled()  # the unknown flag may belong to a plugin that failed to load
        raise
    settings = settings_from(
        args, plugin_keys_checked=True, config=early.config, plugin=early.plugin, no_plugin=early.no_plugin
    )
    return settings, plugins, overridden_variables(args)


def _make_parser(plugins: Plugins, config: str | None) -> CommandParser:
    """Return the parser of all flags, the common ones first and ``--help`` last."""
    parser = CommandParser(
        "llamafw serve",
        "Serve a model over HTTP. Flags take precedence over environment variables, and these over --config.",
        usage="llamafw serve [-m FILE | -hf USER/REPO[:QUANT]] [OPTIONS]",
        example=EXAMPLE,
        add_help=False,
    )
    add_settings(parser)
    add_harmless_flags(parser)
    parser.add_flags_of(collect_plugin_flags(plugins, config))
    about = parser.add_argument_group("help and version")
    about.add_argument("-h", "--help", "--usage", action="help", help="print this help and exit")
    about.add_argument(
        "-cl", "--cache-list", action=_Print, text=downloads_table, help="print the downloaded models and exit"
    )
    about.add_argument(
        "--list-devices", action=_Print, text=devices_table, help="print the devices of backends and exit"
    )
    about.add_argument("--version", action="version", version=version_line(), help="print the version and exit")
    return parser


class _Print(argparse.Action):
    """Prints a text and exits."""

    def __init__(self, option_strings: list[str], dest: str, text: Callable[[], str], help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=help)
        self.text = text

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        """Print the text, and exit."""
        print(self.text())
        parser.exit()
