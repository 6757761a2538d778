"""``llamafw models``: list, show and remove downloaded models."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from typing import Any

from llamafw.cli.parser import CommandParser
from llamafw.cli.pull import downloads_table, format_size
from llamafw.errors import SettingsError
from llamafw.models.downloads import Download, find_downloads, list_downloads, remove

EXAMPLE = """\
llamafw models
llamafw models show smollm2-135m
llamafw models remove USER/REPO:Q4_K_M --yes"""


def run(argv: list[str]) -> int:
    """List, show or remove models."""
    args = make_parser().parse(argv, intermixed=True)
    if args.action == "list" and args.names:
        raise SettingsError("models: list takes no names; `llamafw models show NAME` shows a model")
    if args.action != "list" and not args.names:
        raise SettingsError(f"models: {args.action} needs the name of a downloaded model; `llamafw models` lists them")
    if args.yes and args.action != "remove":
        raise SettingsError("models: --yes is only for `llamafw models remove`")

    if args.action == "list":
        print(_to_json(list_downloads()) if args.json else downloads_table())
        return 0
    found = list(dict.fromkeys(download for name in args.names for download in find_downloads(name)))
    if args.action == "show":
        print(_to_json(found) if args.json else "\n\n".join(map(_describe, found)))
        return 0
    return _remove(found, args)


def make_parser() -> CommandParser:
    """Return the parser of this command."""
    parser = CommandParser(
        "llamafw models",
        "Manage downloaded models: list, show or remove them. `llamafw pull` downloads models, and `llamafw inspect` "
        "prints what is in a model file.",
        usage="llamafw models [list] [--json]\n"
        "       llamafw models show [--json] NAME ...\n"
        "       llamafw models remove [--yes] [--json] NAME ...",
        example=EXAMPLE,
    )
    parser.add_argument("action", nargs="?", choices=("list", "show", "remove"), default="list", help="default: list")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="a name or path that `llamafw models` lists, or the name used to download the model; USER/REPO means all "
        "models of a repository",
    )
    parser.add_argument("-y", "--yes", action="store_true", help="remove without asking")
    parser.add_argument("--json", action="store_true", help="print JSON; sizes are in bytes")
    return parser


def _remove(downloads: list[Download], args: Namespace) -> int:
    """Remove models, after the user has agreed; return the exit code."""
    if not args.yes and not _agrees(downloads):
        print("nothing was removed", file=sys.stderr)
        return 1
    for download in downloads:
        remove(download)
        if not args.json:
            print(f"removed {download.name} ({format_size(download.size)})")
    if args.json:
        print(_to_json(downloads))
    return 0


def _agrees(downloads: list[Download]) -> bool:
    """Ask whether to remove the models; raise SettingsError if nobody can answer."""
    if not sys.stdin.isatty():
        raise SettingsError("models: use --yes to remove models without being asked")
    for download in downloads:
        print(f"{download.name} ({format_size(download.size)}), {download.path}", file=sys.stderr)
    print(
        f"Remove {'it' if len(downloads) == 1 else f'these {len(downloads)} models'}? [y/N] ", end="", file=sys.stderr
    )
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _describe(download: Download) -> str:
    rows = {
        "name": download.name,
        "source": download.source,
        "size": format_size(download.size),
        "path": str(download.path),
    }
    lines = [f"{name:7} {value}" for name, value in rows.items()]
    others = [file for file in download.files if file != download.path and file.exists()]
    lines += [f"{'and' if i else 'files':7} {file}" for i, file in enumerate(others)]
    return "\n".join(lines)


def _to_json(downloads: list[Download]) -> str:
    entries: list[dict[str, Any]] = [
        {
            "name": download.name,
            "source": download.source,
            "path": str(download.path),
            "size": download.size,
            "files": [str(file) for file in download.files],
        }
        for download in downloads
    ]
    return json.dumps(entries, indent=2, ensure_ascii=False)
