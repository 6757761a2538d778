"""Print the counts of a ledger as a table or JSON, also while a server writes to it."""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from llamafw_usage.ledger import COLUMNS, read


def main(argv: list[str]) -> int:
    """Run ``llamafw usage FILE``; return 1 if the file cannot be read."""
    parser = argparse.ArgumentParser("llamafw usage", description="Show the number of tokens per day and user.")
    parser.add_argument("file", metavar="FILE", type=Path, help="the file given to --usage-db")
    parser.add_argument("--since", metavar="YYYY-MM-DD", default="", help="the first day to show, in UTC")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)

    try:
        with closing(sqlite3.connect(f"{args.file.absolute().as_uri()}?mode=ro", uri=True)) as db:
            rows = read(db, args.since)
    except sqlite3.Error as error:
        print(f"llamafw usage: {args.file}: {error}", file=sys.stderr)
        return 1

    if args.json:
        print(json.dumps(rows))
        return 0

    table = [COLUMNS, *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(COLUMNS))]
    for day, user, *counts in table:
        cells = [day.ljust(widths[0]), user.ljust(widths[1])]
        cells += [count.rjust(width) for count, width in zip(counts, widths[2:], strict=True)]
        print("  ".join(cells))
    return 0
