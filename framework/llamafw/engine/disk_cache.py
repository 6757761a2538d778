"""Keeps saved states of slots in a folder, so that prompts need not be evaluated again after a restart.

Several servers may use the same folder, also with different models. A file's name begins with the fingerprint of its
model and backend, and its time is that of its last use. Writing and reading happen on threads of their own. Whatever
goes wrong with a file costs time only: the prompt is evaluated.

States are plain bytes here; the module is independent of slots and backends.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llamafw.engine import state_files
from llamafw.engine.atomic_files import is_orphan
from llamafw.engine.prompt_cache import Entry
from llamafw.engine.slots import common_prefix, last_cut
from llamafw.engine.state_files import PROMPT, StateHead
from llamafw.errors import SettingsError
from llamafw.types import DiskCacheStats, Ints, Strengths

log = logging.getLogger(__name__)

_MAX_PENDING_BYTES = 2**30  # of states that wait to be written; a state that comes when there are more is dropped
_NAME = re.compile("[0-9a-f]{16}-[0-9a-f]{32}[.]prompt")
_SETTLED_SECONDS = 2.0  # the time of a folder may not change with a file if that comes sooner after the last change
_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(slots=True, eq=False)
class StoredState:
    """A state in the folder, or on the way there."""

    name: str  # of the file
    tokens: Ints
    cuts: Collection[int] | None  # as in `Slot`
    n_bytes: int  # size of the file
    adapters: Strengths = ()  # as in `Slot`
    head: StateHead | None = None  # None until it is written
    entry: Entry | None = None  # until it is written

    def n_reused(self, prompt: Ints, adapters: Strengths = ()) -> int:
        """Return how many leading tokens of ``prompt`` are left if the state is restored and cut for it."""
        if self.adapters != adapters:
            return 0
        return last_cut(self.cuts, len(self.tokens), common_prefix(self.tokens, prompt))


class DiskCache:
    """The states of one model in a folder.

    Its methods may be called on any thread.

    Parameters
    ----------
    folder : Path
        The folder; it is created if it does not exist, also if somebody removes it later.
    limit : int
        Maximum size of all files of prompt caches in the folder, in bytes.
    fingerprint : bytes
        Identifies states that the backend can restore; see `fingerprint`.
    n_ctx : int
        Positions per slot; longer states are left alone.

    Raises
    ------
    SettingsError
        The folder cannot be created or read.
    """

    def __init__(self, folder: Path, limit: int, fingerprint: bytes, n_ctx: int) -> None:
        self.folder, self.limit = folder, limit
        self._fingerprint, self._n_ctx, self._prefix = fingerprint, n_ctx, fingerprint.hex()[:16] + "-"
        self._lock = threading.RLock()
        self._states: dict[str, StoredState] = {}  # by name
        self._ignored: set[tuple[str, int]] = set()  # names and times of files that cannot be used
        self._seen: tuple[int, bool] = (-1, False)  # time of the folder at the last look, and whether it was settled
        self._n_pending = self._n_reads = self._n_writes = self._n_failures = 0
        self._cannot_write = self._has_warned = self._was_full = False
        try:
            self._create_folder()
            self._look()
        except OSError as error:
            raise SettingsError(f"--cache-disk: {folder} cannot be used: {error.strerror or error}") from None
        found = self.stats()
        log.info("prompt cache: states in %s: %d, %.0f MiB", folder, found.n_states, found.n_bytes / 2**20)
        self._writer = ThreadPoolExecutor(1, "llamafw-cache-writer")
        self._reader = ThreadPoolExecutor(1, "llamafw-cache-reader")

    # --- finding and reading

    def best(self, prompt: Ints, adapters: Strengths = ()) -> tuple[StoredState | None, int]:
        """Return the state that saves the most tokens of ``prompt``, and their number."""
        best, longest = None, 0
        with self._lock:
            self._look_again()
            for state in self._states.values():
                n = state.n_reused(prompt, adapters)
                if n > longest:
                    best, longest = state, n
        return best, longest

    def holds(self, tokens: Ints, adapters: Strengths = ()) -> bool:
        """Return whether a state begins with all of ``tokens`` and can be cut there."""
        return self.best(tokens, adapters)[1] == len(tokens)

    def read(self, state: StoredState, done: Callable[[Entry | None], None]) -> None:
        """Read a state; call ``done`` with it, or with None if its file is gone or damaged.

        ``done`` is called on another thread, or at once if the state is still in memory.
        """
        if (entry := state.entry) is not None:
            done(entry)
        else:
            self._reader.submit(self._read, state, done)

    def discard(self, entry: Entry, reason: object) -> None:
        """Use a state no more, because the backend cannot restore it."""
        name = self._name(entry.tokens, entry.adapters)
        with self._lock:
            known = name in self._states
        if known:
            self._ignore(name, reason)

    def _read(self, state: StoredState, done: Callable[[Entry | None], None]) -> None:
        entry = None
        try:
            assert state.head is not None  # it has been written
            data = state_files.read_state(self.folder / state.name, state.head)
            entry = Entry(state.tokens, data, state.cuts, state.adapters)
            self._n_reads += 1
            self._touch(state.name)
        except FileNotFoundError:  # another server has removed it
            self._remove_from_index(state.name)
        except (OSError, ValueError, MemoryError) as error:
            self._ignore(state.name, error)
        finally:
            done(entry)

    # --- writing

    def accepts(self, n_bytes: int) -> bool:
        """Return whether a state of this size can be stored at all."""
        return n_bytes < self.limit and not self._cannot_write

    def write(self, entry: Entry, may_continue: Callable[[], bool]) -> bool:
        """Write a state and wait until that is done; return whether it was written.

        It is not if a state already holds its tokens. ``may_continue`` is that of `write_atomically`.
        """
        n_before = self._n_writes
        future = self.add(entry, may_continue)
        if future is not None:
            future.result()
        return self._n_writes > n_before

    def add(self, entry: Entry, may_continue: Callable[[], bool] | None = None) -> Future[None] | None:
        """Begin to write a state; return what waits for the end, or None if there is nothing to write.

        States that can be made from it are removed when it is written. It can be found at once.

        Parameters
        ----------
        entry : Entry
            The state. It must not be changed any more.
        may_continue : callable, optional
            See `write_atomically`.
        """
        name, n_bytes = self._name(entry.tokens, entry.adapters), state_files.file_size(entry)
        state = StoredState(name, entry.tokens, entry.cuts, n_bytes, entry.adapters, entry=entry)
        with self._lock:
            held, n = self.best(entry.tokens, entry.adapters)
            if held is not None and n == len(entry.tokens):
                self._touch(held.name)
                return None
            if not self.accepts(state.n_bytes):
                return None
            if self._n_pending and self._n_pending + state.n_bytes > _MAX_PENDING_BYTES:
                self._n_failures += 1
                return None
            self._states[state.name] = state
            self._n_pending += state.n_bytes
        return self._writer.submit(self._write, state, entry, may_continue)

    def _write(self, state: StoredState, entry: Entry, may_continue: Callable[[], bool] | None) -> None:
        try:
            if not self.folder.is_dir():
                self._create_folder()
                log.warning("prompt cache: %s had been removed; it was created again", self.folder)
            self._make_space(state.n_bytes)
            path = self.folder / state.name
            try:
                state_files.write(path, PROMPT, self._fingerprint, entry, may_continue)
            except OSError as error:
                if error.errno not in _FULL or not self._make_space_on_full_disk(state.n_bytes):
                    raise
                state_files.write(path, PROMPT, self._fingerprint, entry, may_continue)
            with self._lock:
                state.head, state.entry = state_files.read_head(path, PROMPT, self._fingerprint), None
            self._n_writes += 1
            self._has_warned = False
            self._remove_covered(state)
        except (OSError, ValueError, MemoryError) as error:
            self._remove_from_index(state.name)
            self._n_failures += 1
            self._cannot_write = isinstance(error, OSError) and error.errno in _READ_ONLY
            if not self._has_warned:
                self._has_warned = True
                reason = error.strerror or error if isinstance(error, OSError) else error
                log.warning("prompt cache: states cannot be written to %s: %s", self.folder, reason)
        finally:
            with self._lock:
                self._n_pending -= state.n_bytes

    def _make_space(self, n_bytes: int) -> None:
        """Delete the least recently used files, of whatever model, until there is space for another one."""
        files, n_used = [], 0
        for file, status in self._files():
            if is_orphan(file.name, status.st_mtime, PROMPT.prefix):
                self._delete(file.name)
                continue
            n_used += status.st_size
            if _NAME.fullmatch(file.name):
                files.append((status.st_mtime, file.name, status.st_size))
        self._delete_oldest(files, n_used + n_bytes - self.limit)

    def _make_space_on_full_disk(self, n_bytes: int) -> bool:
        """Delete files as `_make_space` does, as if all of them had reached the limit now.

        Returns False, and deletes nothing, if all of them are smaller than the new one.
        """
        every = self._files()
        files = [(status.st_mtime, file.name, status.st_size) for file, status in every if _NAME.fullmatch(file.name)]
        if sum(size for _, _, size in files) < n_bytes:
            return False
        if not self._was_full:
            self._was_full = True
            log.warning("prompt cache: the disk of %s is full: new states replace the least recently used", self.folder)
        self._delete_oldest(files, n_bytes)
        return True

    def _delete_oldest(self, files: list[tuple[float, str, int]], n_bytes: int) -> None:
        """Delete files, given as (time of last use, name, size), oldest first, until ``n_bytes`` are free."""
        for _, name, size in sorted(files):
            if n_bytes <= 0:
                break
            self._delete(name)
            n_bytes -= size

    def _remove_covered(self, added: StoredState) -> None:
        """Delete the states that can be made from another one."""
        with self._lock:
            others = [one for one in self._states.values() if one is not added and one.head is not None]
            covered = [one.name for one in others if added.n_reused(one.tokens, one.adapters) == len(one.tokens)]
        for name in covered:
            self._delete(name)

    def close(self) -> None:
        """Wait until all states are written, and stop the threads."""
        self._writer.shutdown()
        self._reader.shutdown(cancel_futures=True)

    # --- the folder

    def _create_folder(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def stats(self) -> DiskCacheStats:
        """Return counters since the start, and the current size."""
        # without the lock: whoever holds it may wait for a slow disk
        states = list(self._states.values())
        n_bytes = sum(state.n_bytes for state in states)
        return DiskCacheStats(len(states), n_bytes, self.limit, self._n_reads, self._n_writes, self._n_failures)

    def _name(self, tokens: Ints, adapters: Strengths) -> str:
        digest = hashlib.blake2b(tokens.astype("<i4").tobytes(), digest_size=16)
        for one in adapters:
            digest.update(repr(one).encode())
        return f"{self._prefix}{digest.hexdigest()}.prompt"

    def _look_again(self) -> None:
        """Look for files that other servers have added or removed, if the folder has changed."""
        try:
            if self._seen != (os.stat(self.folder).st_mtime_ns, True):
                self._look()
        except (FileNotFoundError, NotADirectoryError):
            self._forget_missing(())
        except OSError:  # what the folder holds is unknown
            pass

    def _look(self) -> None:
        """Read the heads of files that are new, and forget those that are gone."""
        changed = os.stat(self.folder).st_mtime_ns
        if changed != self._seen[0]:
            self._cannot_write = False  # somebody has written to it, or created it again
        self._seen = changed, time.time() - changed / 1e9 > _SETTLED_SECONDS
        files = {file.name: status for file, status in self._files() if file.name.startswith(self._prefix)}
        self._forget_missing(files.keys())
        for name in files.keys() - self._states.keys():
            if (name, files[name].st_mtime_ns) not in self._ignored:
                self._add_to_index(name, files[name])

    def _forget_missing(self, names: Collection[str]) -> None:
        """Forget the written states whose files are not among ``names``."""
        for name, state in list(self._states.items()):
            if name not in names and state.head is not None:
                del self._states[name]

    def _add_to_index(self, name: str, status: os.stat_result) -> None:
        try:
            head = state_files.read_head(self.folder / name, PROMPT, self._fingerprint)
        except FileNotFoundError:  # another server has just removed it
            pass
        except (OSError, ValueError) as error:
            self._ignore(name, error)
        else:
            if len(head.tokens) <= self._n_ctx:
                self._states[name] = StoredState(name, head.tokens, head.cuts, status.st_size, head.adapters, head)
            else:
                self._ignored.add((name, status.st_mtime_ns))

    def _ignore(self, name: str, reason: object) -> None:
        """Log once that a file cannot be used, and use it no more.

        It stays until it is the least recently used one, or replaced by a new one.
        """
        log.warning("prompt cache: %s is ignored: %s", self.folder / name, reason)
        self._n_failures += 1
        with self._lock:
            self._states.pop(name, None)
            with suppress(OSError):
                self._ignored.add((name, os.stat(self.folder / name).st_mtime_ns))

    def _files(self) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
        """Yield the files of prompt caches in the folder, the temporary ones too, and nothing else."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if not _NAME.fullmatch(entry.name) and not entry.name.startswith(PROMPT.prefix):
                    continue
                with suppress(OSError):  # another server has just removed it
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        yield entry, status

    def _touch(self, name: str) -> None:
        """Record that a file was used."""
        with suppress(OSError):  # it is not written yet, or the folder is read-only
            os.utime(self.folder / name)

    def _delete(self, name: str) -> None:
        with suppress(OSError):  # another server was faster, or reads it on a system that forbids this
            os.unlink(self.folder / name)
        self._remove_from_index(name)

    def _remove_from_index(self, name: str) -> None:
        with self._lock:
            self._states.pop(name, None)
