"""``llamafw usage FILE``: the counts as a table, also while a server writes them."""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from llamafw_usage.ledger import COLUMNS, read


def main(argv: list[str]) -> int:
    """Print the counts; 1 if there is no such file."""
    parser = argparse.ArgumentParser("llamafw usage", description="Show who used how many tokens.")
    parser.add_argument("file", metavar="FILE", type=Path, help="what --usage-db was given")
    parser.add_argument("--since", metavar="YYYY-MM-DD", default="", help="the first day, UTC")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(argv)
    try:
        with closing(sqlite3.connect(f"{given.file.absolute().as_uri()}?mode=ro", uri=True)) as db:
            rows = read(db, given.since)
    except sqlite3.Error as error:
        print(f"llamafw usage: {given.file}: {error}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps(rows))
        return 0
    table = [COLUMNS, *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(COLUMNS))]
    for row in table:
        print(
            "  ".join(
                text.ljust(n) if i < 2 else text.rjust(n) for i, (text, n) in enumerate(zip(row, widths, strict=True))
            )
        )
    return 0
