"""Saves, restores and erases the caches of slots: ``POST /slots/{id}``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from llamafw.engine import slot_files
from llamafw.engine.slot_caches import SlotCaches
from llamafw.engine.slots import Slot
from llamafw.errors import RequestError
from llamafw.types import Strengths

RunJob = Callable[[int, Callable[[Slot], Any]], Awaitable[Any]]
"""Runs a function on the engine thread as soon as a slot is free; returns its result."""


class SlotActions:
    """The actions on slots.

    Called on the event loop.

    Parameters
    ----------
    run_job : callable
        See `RunJob`. Raises RequestError if the slot does not exist.
    caches : SlotCaches
        The caches of all slots.
    fingerprint : bytes
        Identifies states that this engine can read; see `fingerprint`.
    n_ctx : int
        Positions per slot.
    are_loaded : callable
        Returns whether the engine has some adapters.
    """

    def __init__(
        self,
        run_job: RunJob,
        caches: SlotCaches,
        fingerprint: bytes,
        n_ctx: int,
        are_loaded: Callable[[Strengths], bool],
    ) -> None:
        self._run_job, self._caches, self._fingerprint, self._n_ctx = run_job, caches, fingerprint, n_ctx
        self._are_loaded = are_loaded

    async def save(self, id: int, path: Path) -> tuple[int, int]:
        """Write a slot's cache to a file; return the number of tokens and of bytes written."""
        tokens, state, adapters = await self._run_job(id, self._caches.save)
        n_bytes = await asyncio.to_thread(slot_files.write, path, self._fingerprint, tokens, state, adapters)
        return len(tokens), n_bytes

    async def restore(self, id: int, path: Path) -> tuple[int, int]:
        """Read a file that `save` wrote into a slot; return the number of tokens and of bytes read."""
        entry, n_bytes = await asyncio.to_thread(slot_files.read, path, self._fingerprint, self._n_ctx)
        if not self._are_loaded(entry.adapters):
            reason = "it was saved with an adapter that is not loaded"
            raise RequestError(f"Unable to restore slot: {reason}", param="filename")
        await self._run_job(id, lambda slot: self._caches.restore(slot, entry.tokens, entry.state, entry.adapters))
        return len(entry.tokens), n_bytes

    async def erase(self, id: int) -> int:
        """Empty a slot's cache, and forget its last task; return how many tokens it held."""

        def clear(slot: Slot) -> int:
            slot.task = None  # its numbers of tokens are those of the cache that is gone
            return self._caches.clear(slot)

        return int(await self._run_job(id, clear))
