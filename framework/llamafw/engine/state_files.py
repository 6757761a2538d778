"""Reads and writes files with the state of a slot: those of the prompt cache on disk, and saved slots.

Layout, integers little-endian: 8 bytes magic number, uint32 version, 32 bytes fingerprint, uint32 number of tokens n,
int32 number of cuts m (-1: the state can be cut anywhere), uint32 number of adapters a, uint64 size of the state,
uint32 CRC-32 of the state, 32 bytes BLAKE2b of all before and of the next three parts: a × (32 characters digest,
float64 scale), n × int32 tokens, m × int32 cuts; then the state.

The first part has a checksum of its own, so a server can find out what a file holds without reading the state. The
state has a CRC because a hash would take as long as reading. Independent of the folders that the files are in.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llamafw.engine.atomic_files import write_atomically
from llamafw.engine.prompt_cache import Entry
from llamafw.types import Bytes, Ints, Strengths

_HEAD, _ADAPTER = struct.Struct("<8sI32sIiIQI"), struct.Struct("<32sd")
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class FileKind:
    """A kind of file with states."""

    magic: bytes  # (8,)
    version: int
    name: str  # for messages
    prefix: str  # of the names of temporary files
    durable: bool  # see `write_atomically`


PROMPT = FileKind(b"LLAMAFWP", 2, "a file of the prompt cache", ".prompt-", durable=False)
SLOT = FileKind(b"LLAMAFWS", 3, "a saved slot", ".slot-", durable=True)


@dataclass(frozen=True, slots=True, eq=False)
class StateHead:
    """What a file holds."""

    tokens: Ints  # (n,) int32
    cuts: tuple[int, ...] | None  # as in `Slot`
    adapters: Strengths  # as in `Slot`
    n_bytes: int  # size of the state
    checksum: int  # CRC-32 of the state
    start: int  # of the state in the file


def file_size(entry: Entry) -> int:
    """Return the size of an entry's file in bytes."""
    n_numbers = len(entry.tokens) + len(entry.cuts or ())
    return _HEAD.size + _DIGEST_BYTES + _ADAPTER.size * len(entry.adapters) + 4 * n_numbers + entry.state.nbytes


def write(
    path: Path, kind: FileKind, fingerprint: bytes, entry: Entry, may_continue: Callable[[], bool] | None = None
) -> None:
    """Write an entry atomically; see `write_atomically` for errors."""
    n_cuts = -1 if entry.cuts is None else len(entry.cuts)
    adapters = b"".join(_ADAPTER.pack(digest.encode(), scale) for digest, scale in entry.adapters)
    body = adapters + entry.tokens.astype("<i4").tobytes() + np.array([*(entry.cuts or ())], "<i4").tobytes()
    sizes = len(entry.tokens), n_cuts, len(entry.adapters), entry.state.nbytes
    head = _HEAD.pack(kind.magic, kind.version, fingerprint, *sizes, zlib.crc32(entry.state.data))
    parts = (head, _digest(head + body), body, entry.state.data)
    write_atomically(path, parts, prefix=kind.prefix, durable=kind.durable, may_continue=may_continue)


def read_head(path: Path, kind: FileKind, fingerprint: bytes) -> StateHead:
    """Return what a file holds.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is damaged, or of another model or backend. The message says which.
    """
    with open(path, "rb", opener=_open_without_blocking) as file:
        status = os.fstat(file.fileno())
        head = file.read(_HEAD.size) if stat.S_ISREG(status.st_mode) else b""
        if len(head) < _HEAD.size or not head.startswith(kind.magic):
            raise ValueError(f"it is not {kind.name}")
        _, version, found, n_tokens, n_cuts, n_adapters, n_bytes, checksum = _HEAD.unpack(head)
        if version != kind.version:
            raise ValueError(f"its format version is {version}; this server reads {kind.version}")
        if found != fingerprint:
            raise ValueError(
                "it is of another model or backend, or was made with other settings, such as --cache-type-k"
            )

        n_body = _ADAPTER.size * n_adapters + 4 * (n_tokens + max(n_cuts, 0))
        start = _HEAD.size + _DIGEST_BYTES + n_body
        if status.st_size != start + n_bytes:
            raise ValueError("it is incomplete")
        digest, body = file.read(_DIGEST_BYTES), file.read(n_body)
    if _digest(head + body) != digest:
        raise ValueError("it is damaged")
    n_body = _ADAPTER.size * n_adapters
    adapters = tuple((name.decode(), scale) for name, scale in _ADAPTER.iter_unpack(body[:n_body]))
    numbers = np.frombuffer(body, "<i4", offset=n_body).astype(np.int32)
    cuts = None if n_cuts < 0 else tuple(numbers[n_tokens:].tolist())
    return StateHead(numbers[:n_tokens], cuts, adapters, n_bytes, checksum, start)


def read_state(path: Path, head: StateHead) -> Bytes:
    """Return the state in a file, ``(n_bytes,)`` uint8.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        The state is not the one that was written.
    """
    state = np.empty(head.n_bytes, np.uint8)
    with open(path, "rb", buffering=0, opener=_open_without_blocking) as file:
        file.seek(head.start)
        unread = state.data
        while len(unread) and (n := file.readinto(unread)):
            unread = unread[n:]
    if len(unread) or zlib.crc32(state.data) != head.checksum:
        raise ValueError("it is damaged")
    return state


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _open_without_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # opening a pipe blocks until somebody writes into it
