"""The SQLite tables of conversations and messages.

One thread owns the connection: the event loop never waits for the disk, and calls cannot race.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from secrets import token_hex
from typing import Any, TypeVar

T = TypeVar("T")
JSON = dict[str, Any]

SCHEMA = """
CREATE TABLE IF NOT EXISTS conversation (id TEXT PRIMARY KEY, title TEXT NOT NULL, created INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS message (
    conversation TEXT NOT NULL REFERENCES conversation (id) ON DELETE CASCADE,
    position INTEGER NOT NULL, role TEXT NOT NULL, content TEXT NOT NULL, created INTEGER NOT NULL,
    PRIMARY KEY (conversation, position)
) WITHOUT ROWID;
"""


class Store:
    """Conversations in a SQLite file."""

    def __init__(self, path: str) -> None:
        self._thread = ThreadPoolExecutor(1, "conversations")
        self._db = self._thread.submit(_open, path).result()

    def close(self) -> None:
        """Finish pending writes, then close the file."""
        self._thread.submit(self._db.close)
        self._thread.shutdown()

    async def create(self, title: str, messages: Sequence[Mapping[str, Any]]) -> JSON:
        """Create a conversation and return it."""
        id = f"conv_{token_hex(12)}"

        def query(db: sqlite3.Connection) -> JSON:
            db.execute("INSERT INTO conversation VALUES (?, ?, ?)", (id, title, int(time.time())))
            _append(db, id, messages)
            return _get(db, id) or {}

        return await self._run(query)

    async def list(self, limit: int, before: str | None) -> list[JSON]:
        """Return conversations without their messages, newest first.

        Parameters
        ----------
        limit : int
            The maximum number of conversations.
        before : str or None
            Return only conversations older than the one with this id.
        """

        def query(db: sqlite3.Connection) -> list[JSON]:
            rows = db.execute(
                "SELECT id, title, created FROM conversation "
                "WHERE :before IS NULL OR rowid < (SELECT rowid FROM conversation WHERE id = :before) "
                "ORDER BY rowid DESC LIMIT :limit",
                {"before": before, "limit": limit},
            )
            return [{"id": id, "title": title, "created": created} for id, title, created in rows]

        return await self._run(query)

    async def get(self, id: str) -> JSON | None:
        """Return a conversation with its messages, or None if it does not exist."""
        return await self._run(lambda db: _get(db, id))

    async def append(self, id: str, messages: Sequence[Mapping[str, Any]]) -> JSON | None:
        """Add all messages and return the conversation, or None if it does not exist."""

        def query(db: sqlite3.Connection) -> JSON | None:
            if _get(db, id) is None:
                return None
            _append(db, id, messages)
            return _get(db, id)

        return await self._run(query)

    async def delete(self, id: str) -> bool:
        """Delete a conversation and return whether it existed."""
        return await self._run(lambda db: db.execute("DELETE FROM conversation WHERE id = ?", (id,)).rowcount > 0)

    async def _run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``query`` in a transaction, on the thread of the connection."""

        def transaction() -> T:
            with self._db:
                return query(self._db)

        return await asyncio.get_running_loop().run_in_executor(self._thread, transaction)


def _open(path: str) -> sqlite3.Connection:
    """Open the file and create missing tables."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA foreign_keys = ON")
    db.executescript(SCHEMA)
    return db


def _get(db: sqlite3.Connection, id: str) -> JSON | None:
    """Return a conversation with its messages, or None if it does not exist."""
    row = db.execute("SELECT title, created FROM conversation WHERE id = ?", (id,)).fetchone()
    if row is None:
        return None
    rows = db.execute("SELECT role, content FROM message WHERE conversation = ? ORDER BY position", (id,))
    messages = [{"role": role, "content": content} for role, content in rows]
    return {"id": id, "title": row[0], "created": row[1], "messages": messages}


def _append(db: sqlite3.Connection, id: str, messages: Sequence[Mapping[str, Any]]) -> None:
    """Add messages after the last one of a conversation."""
    (n,) = db.execute("SELECT count(*) FROM message WHERE conversation = ?", (id,)).fetchone()
    now = int(time.time())
    rows = [(id, n + i, message["role"], message["content"], now) for i, message in enumerate(messages)]
    db.executemany("INSERT INTO message VALUES (?, ?, ?, ?, ?)", rows)
