"""``llamafw serve``: fetch the model if need be, then answer requests."""

from __future__ import annotations

import logging
import sys
from functools import partial

from llamafw.cli.logs import set_up_logging
from llamafw.cli.parser import (
    Parser,
    add_settings,
    load_plugins,
    overruled,
    settings_from,
    split_plugin_flags,
)
from llamafw.cli.plugin_flags import plugin_flags
from llamafw.cli.version import text
from llamafw.errors import SettingsError
from llamafw.models.find import find_model

SWITCH_INTERVAL = 0.0002
"""Seconds until a thread that wants Python's lock gets it. The engine thread needs little of it, but at once: with the
usual 5 ms, writing events to many clients held the next forward pass up, and 16 streams were a sixth slower."""


def run(argv: list[str]) -> int:
    """Serve until SIGINT or SIGTERM."""
    first, rest = split_plugin_flags(argv)
    plugins = load_plugins(first)
    what = "Answer requests over HTTP. Flags win over the environment, this over --config."
    parser = Parser("llamafw serve", what, parents=plugin_flags(plugins, first.config))
    parser.add_argument("--usage", action="help", help="the same as --help")
    parser.add_argument("--version", action="version", version=text(), help="print the version and exit")
    add_settings(parser)
    try:
        given = parser.parse(rest)
    except SettingsError:  # such as an unknown flag: of a plugin, perhaps, that was left out
        plugins.report()
        raise
    settings = settings_from(given, checked=True, config=first.config, plugin=first.plugin, no_plugin=first.no_plugin)
    set_up_logging(settings)
    plugins.report()
    for sentence in overruled(given):
        logging.getLogger("llamafw").warning(sentence)
    from llamafw.engine.load import load_model, read_flags  # these imports take long: --help need not wait
    from llamafw.engine.start_checks import check_names, open_and_check
    from llamafw.server.run import serve

    check_names(settings, plugins)
    texts = read_flags(settings)
    path = find_model(settings)
    model = open_and_check(path, settings, plugins)
    sys.setswitchinterval(SWITCH_INTERVAL)
    log = logging.getLogger("llamafw").info
    return serve(settings, plugins, partial(load_model, path, settings, plugins, log, texts, model))
