"""``llamafw spec``: the API document, with the operations and fields of every plugin."""
from __future__ import annotations

from llamafw import spec
from llamafw.cli.parser import Parser, add_settings, load_plugins, settings_from, split_plugin_flags
from llamafw.cli.plugin_flags import plugin_flags


def run(argv: list[str]) -> int:
    """Print the merged document."""
    first, rest = split_plugin_flags(argv)
    plugins = load_plugins(first)
    what = "Print the API document; flags of `llamafw serve` change its defaults."
    parser = Parser("llamafw spec", what, parents=plugin_flags(plugins, first.config))
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--yaml", action="store_const", dest="form", const="yaml", default="yaml", help="the default")
    form.add_argument("--json", action="store_const", dest="form", const="json", help="print JSON")
    add_settings(parser)
    given = parser.parse(rest)
    name = vars(given).pop("form")
    settings = settings_from(given, checked=True, config=first.config)
    plugins.report()
    print(spec.render(spec.merged_document(plugins, settings), name), end="")
    return 0
