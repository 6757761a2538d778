"""``llamafw pull``: fetch a model into the user's cache."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from llamafw.cli.parser import Parser, add_settings, settings_from
from llamafw.errors import SettingsError
from llamafw.models.catalogue import CATALOGUE
from llamafw.models.find import find_model

SHARED = ("config", "hf_file", "hf_token", "offline")
"""The settings of ``llamafw serve`` that hold here too."""


def run(argv: list[str]) -> int:
    """Fetch the named models and print where they are; ``--list`` prints what there is."""
    parser = Parser("llamafw pull", "Fetch a model into the user's cache and print its path.")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME|USER/REPO[:QUANT]|URL",
        help="a name of the catalogue, a repository on Hugging Face, or an address",
    )
    parser.add_argument("--list", action="store_true", help="print the catalogue")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    add_settings(parser, SHARED)
    given = parser.parse(argv)
    if given.list or not given.names:
        for name, entry in CATALOGUE.items():
            print(f"{name:20} {entry.size / 1e6:8.0f} MB  {entry.description}")
        return 0
    for name in given.names:
        print(_pull(name, given))
    return 0


def _pull(name: str, given: Namespace) -> Path:
    which: dict[str, Any] = {"hf_repo": None, "model_url": None, "model": None}
    kind = "model_url" if "://" in name else "hf_repo" if "/" in name else "model"
    which[kind] = name
    if kind != "hf_repo":
        if given.hf_file:
            raise SettingsError(f"pull: --hf-file needs a repository, and {name} is none")
        which["hf_file"] = None  # whatever the environment says
    shared = Namespace(**{flag: getattr(given, flag) for flag in SHARED})
    return find_model(settings_from(shared, **which), progress=not given.quiet)
