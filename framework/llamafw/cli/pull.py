"""``llamafw pull``: fetch a model of the catalogue into the user's cache."""
from __future__ import annotations

from llamafw.cli.parser import Parser
from llamafw.models.catalogue import CATALOGUE
from llamafw.models.hub import pull


def run(argv: list[str]) -> int:
    """Fetch the named models and print where they are; ``--list`` prints what there is."""
    parser = Parser("llamafw pull", "Fetch a model into the user's cache and print its path.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a name of the catalogue")
    parser.add_argument("--list", action="store_true", help="print the catalogue")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    given = parser.parse(argv)
    if given.list or not given.names:
        for name, entry in CATALOGUE.items():
            print(f"{name:20} {entry.size / 1e6:8.0f} MB  {entry.description}")
        return 0
    for name in given.names:
        print(pull(name, progress=not given.quiet))
    return 0
