"""``llamafw pull``: download models into the user's cache; list and remove downloaded models."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from llamafw.cli.parser import CommandParser, add_settings
from llamafw.cli.read_settings import settings_from
from llamafw.errors import SettingsError
from llamafw.models.catalogue import CATALOGUE
from llamafw.models.downloads import find_downloads, list_downloads, remove
from llamafw.models.find import find_model

SHARED_SETTINGS = ("config", "hf_file", "hf_token", "offline")
"""The settings of ``llamafw serve`` that this command has too."""

EXAMPLE = """\
llamafw pull smollm2-135m
llamafw pull USER/REPO:Q4_K_M
llamafw pull --list
llamafw pull --remove USER/REPO:Q4_K_M"""


def run(argv: list[str]) -> int:
    """Download, list or remove models."""
    args = _make_parser().parse(argv)
    if args.list and (args.names or args.remove):
        raise SettingsError("pull: --list takes neither names nor --remove")
    if args.remove and not args.names:
        raise SettingsError("pull: --remove needs the name of a downloaded model; `llamafw pull --list` shows them")

    if args.list:
        print(downloads_table())
    elif args.remove:
        _remove(args.names)
    elif args.names:
        for name in args.names:
            print(_pull(name, args))
    else:
        _print_catalogue()
    return 0


def _make_parser() -> CommandParser:
    parser = CommandParser(
        "llamafw pull",
        "Download models and print their paths; without a name, print the catalogue.",
        usage="llamafw pull [OPTIONS] [NAME | USER/REPO[:QUANT] | URL ...]\n"
        "       llamafw pull --list\n"
        "       llamafw pull --remove NAME ...",
        example=EXAMPLE,
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="a name from the catalogue, a Hugging Face repository (USER/REPO[:QUANT]) or a URL",
    )
    parser.add_argument(
        "--list", action="store_true", help="print the downloaded models: name, size, source and path of each"
    )
    parser.add_argument(
        "--remove",
        action="store_true",
        help="remove models from the cache; NAME is a name that --list prints, or the name used to download the model",
    )
    parser.add_argument("--quiet", action="store_true", help="do not show progress")
    add_settings(parser, SHARED_SETTINGS)
    return parser


def _pull(name: str, args: Namespace) -> Path:
    """Download one model, unless it is in the cache; return its path."""
    model: dict[str, Any] = {"hf_repo": None, "model_url": None, "model": None}
    kind = "model_url" if "://" in name else "hf_repo" if "/" in name else "model"
    model[kind] = name
    if kind != "hf_repo":
        if args.hf_file:
            raise SettingsError(f"pull: --hf-file needs a repository USER/REPO, but {name} is not one")
        model["hf_file"] = None  # even if the environment sets it
    shared = Namespace(**{setting: getattr(args, setting) for setting in SHARED_SETTINGS})
    return find_model(settings_from(shared, **model), progress=not args.quiet)


def _remove(names: list[str]) -> None:
    """Remove all models that the names identify.

    If a name is unknown, nothing is removed.
    """
    downloads = [download for name in names for download in find_downloads(name)]
    for download in dict.fromkeys(downloads):
        remove(download)
        print(f"removed {download.name} ({format_size(download.size)})")


def _print_catalogue() -> None:
    for name, entry in CATALOGUE.items():
        print(f"{name:20} {format_size(entry.size):>9}  {entry.description}")


def downloads_table() -> str:
    """Return a table of the downloaded models."""
    downloads = list_downloads()
    if not downloads:
        return "no models have been downloaded; `llamafw pull` prints the catalogue"
    rows = [("NAME", "SIZE", "SOURCE", "PATH")]
    rows += [(download.name, format_size(download.size), download.source, str(download.path)) for download in downloads]
    name_width, size_width, source_width = (max(len(row[column]) for row in rows) for column in range(3))
    return "\n".join(
        f"{name:{name_width}}  {size:>{size_width}}  {source:{source_width}}  {path}"
        for name, size, source, path in rows
    )


def format_size(n_bytes: int) -> str:
    """Return a size in MB or GB."""
    return f"{n_bytes / 1e6:.0f} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:.1f} GB"
