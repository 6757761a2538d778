"""``llamafw spec``: print the API document, with the parts that plugins add, or compare it with an older one."""

from __future__ import annotations

from pathlib import Path

from llamafw import spec
from llamafw.cli.changes import compare
from llamafw.cli.parser import CommandParser, add_settings
from llamafw.cli.plugin_flags import collect_plugin_flags
from llamafw.cli.read_settings import load_plugins, parse_early_flags, settings_from
from llamafw.errors import SettingsError, SpecError

EXAMPLE = """\
llamafw spec > openapi.yaml
llamafw spec --diff openapi.yaml"""


def run(argv: list[str]) -> int:
    """Print the merged document, or with ``--diff`` the changes; return 1 if a change breaks clients."""
    early, rest = parse_early_flags(argv)
    plugins = load_plugins(early)
    parser = CommandParser(
        "llamafw spec",
        "Print the API document (OpenAPI). It depends on the plugins and the settings, so all flags of `llamafw serve` "
        "are accepted.",
        usage="llamafw spec [--yaml | --json | --diff FILE] [OPTIONS]",
        example=EXAMPLE,
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--yaml", action="store_const", dest="form", const="yaml", default="yaml", help="print YAML (default)"
    )
    form.add_argument("--json", action="store_const", dest="form", const="json", help="print JSON")
    text = "print what has changed since the document in FILE; the exit code is 1 if a change breaks clients"
    form.add_argument("--diff", metavar="FILE", type=Path, help=text)
    add_settings(parser)
    parser.add_flags_of(collect_plugin_flags(plugins, early.config))

    args = parser.parse(rest)
    name, old_path = vars(args).pop("form"), vars(args).pop("diff")
    settings = settings_from(args, plugin_keys_checked=True, config=early.config)
    document = spec.merged_document(plugins, settings)
    plugins.log_disabled()
    if old_path is not None:
        return _print_changes(_read_old(old_path), document)
    print(spec.render(document, name), end="")
    return 0


def _read_old(path: Path) -> spec.Document:
    try:
        return spec.read_document(path, f"spec --diff: {path}")
    except SpecError as error:
        raise SettingsError(str(error)) from None  # exit code 2; 1 would mean that a change breaks clients


def _print_changes(old: spec.Document, new: spec.Document) -> int:
    changes = sorted(compare(old, new), key=lambda change: not change.breaking)
    for change in changes:
        print(f"{'breaking' if change.breaking else '':9} {change.place}: {change.text}")
    n_breaking = sum(change.breaking for change in changes)
    print(f"{n_breaking} of {len(changes)} changes break clients" if changes else "no changes")
    return 1 if n_breaking else 0
