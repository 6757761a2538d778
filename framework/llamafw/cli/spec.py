"""``llamafw spec``: the API document, with the operations and fields of every plugin."""

from __future__ import annotations

from pathlib import Path

from llamafw import spec
from llamafw.cli.changes import changes
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
    text = "print what has changed since this document instead; exit code 1 if it breaks clients"
    form.add_argument("--diff", metavar="FILE", type=Path, help=text)
    add_settings(parser)
    given = parser.parse(rest)
    name, old = vars(given).pop("form"), vars(given).pop("diff")
    settings = settings_from(given, checked=True, config=first.config)
    document = spec.merged_document(plugins, settings)
    plugins.report()
    if old is not None:
        return _print_changes(spec.read_document(old, f"spec --diff: {old}"), document)
    print(spec.render(document, name), end="")
    return 0


def _print_changes(old: spec.Document, new: spec.Document) -> int:
    found = changes(old, new)
    for one in sorted(found, key=lambda one: not one.breaking):
        print(f"{'breaking' if one.breaking else '':9} {one.place}: {one.text}")
    n = sum(one.breaking for one in found)
    print(f"{n} of {len(found)} changes break clients" if found else "nothing has changed")
    return 1 if n else 0
