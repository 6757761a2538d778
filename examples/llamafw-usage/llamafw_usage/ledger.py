"""Store the counts per day and user in a SQLite file, which one thread writes."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger(__name__)

COLUMNS = ("day", "user", "requests", "prompt_tokens", "cached_tokens", "completion_tokens")
COUNTS = COLUMNS[2:]
TABLE = f"CREATE TABLE IF NOT EXISTS usage (day TEXT, user TEXT, {', '.join(COUNTS)}, PRIMARY KEY (day, user))"
ADD = (
    f"INSERT INTO usage VALUES (?, ?, 1, ?, ?, ?) ON CONFLICT DO UPDATE SET "
    f"{', '.join(f'{count} = {count} + excluded.{count}' for count in COUNTS)}"
)


class Ledger:
    """The counts in a file."""

    def __init__(self, path: str) -> None:
        self._thread = ThreadPoolExecutor(1, "usage")
        self._db = self._thread.submit(_open, path).result()

    def add(self, user: str, *tokens: int) -> None:
        """Add a request to the counts of a user.

        Returns at once: another thread writes the file.

        Parameters
        ----------
        user : str
            The name of the user.
        *tokens : int
            The numbers of prompt tokens, cached tokens and answer tokens.
        """
        day = datetime.now(UTC).date().isoformat()
        self._thread.submit(self._write, (day, user, *tokens))

    async def rows(self, since: str) -> list[dict[str, Any]]:
        """Return the counts from a day on, after pending writes are done."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, read, self._db, since)

    def close(self) -> None:
        """Finish pending writes, then close the file."""
        self._thread.submit(self._db.close)
        self._thread.shutdown()

    def _write(self, row: tuple[Any, ...]) -> None:
        """Write one request, or log why that failed."""
        try:
            with self._db:
                self._db.execute(ADD, row)
        except sqlite3.Error:  # logged here, because no caller waits for the result
            log.exception("cannot count a request of user %s", row[1])


def _open(path: str) -> sqlite3.Connection:
    """Open the file and create the table if it is missing."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(TABLE)
    return db


def read(db: sqlite3.Connection, since: str) -> list[dict[str, Any]]:
    """Return the counts from a day on, latest day first."""
    rows = db.execute("SELECT * FROM usage WHERE day >= ? ORDER BY day DESC, user", (since,))
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]
