"""Reads and writes the files of saved slots, which `POST /slots/{id}?action=save` creates.

Layout, integers little-endian: ``LLAMAFWS``, uint32 version, 32 bytes fingerprint, uint32 number of tokens n, uint64
size of the state, 32 bytes BLAKE2b of the rest, n × int32 tokens, the state.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from llamafw.errors import GenerationError, RequestError
from llamafw.types import Bytes, Ints

_MAGIC, _VERSION = b"LLAMAFWS", 1
_HEAD = struct.Struct("<8sI32sIQ32s")


def write(path: Path, fingerprint: bytes, tokens: Ints, state: Bytes) -> int:
    """Write the file atomically; return its size in bytes.

    Raises
    ------
    RequestError
        The path is a folder.
    GenerationError
        The file cannot be written.
    """
    body = tokens.astype("<i4").tobytes()
    digest = hashlib.blake2b(body, digest_size=32)
    digest.update(state.data)
    head = _HEAD.pack(_MAGIC, _VERSION, fingerprint, len(tokens), state.nbytes, digest.digest())
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".slot-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                for part in (head, body, state.data):
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
    except IsADirectoryError:
        raise RequestError("Invalid filename: it is a folder", param="filename") from None
    except OSError as error:
        raise GenerationError(f"the slot cannot be saved: {error.strerror}") from error
    return len(head) + len(body) + state.nbytes


def read(path: Path, fingerprint: bytes, n_ctx: int) -> tuple[Ints, Bytes, int]:
    """Return the tokens and the state in a file, and the file's size in bytes.

    Raises
    ------
    RequestError
        The file does not exist, is incomplete or damaged, was saved from another model or backend, or has more than
        ``n_ctx`` tokens.
    """
    try:
        with open(path, "rb", opener=_open_without_blocking) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _refusal("it is not a saved slot")
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size or not head.startswith(_MAGIC):
                raise _refusal("it is not a saved slot")
            _, version, found, n, n_bytes, digest = _HEAD.unpack(head)
            if version != _VERSION:
                raise _refusal(f"its format version is {version}; this server reads {_VERSION}")
            if found != fingerprint:
                raise _refusal("it was saved from another model, backend or type of cache")
            if n > n_ctx:
                raise _refusal(f"it has {n} tokens; the context of a slot is {n_ctx}")
            if os.fstat(file.fileno()).st_size != len(head) + 4 * n + n_bytes:
                raise _refusal("it is incomplete")
            body = file.read()
    except OSError as error:
        raise _refusal(error.strerror or "it cannot be read") from None
    if hashlib.blake2b(body, digest_size=32).digest() != digest:
        raise _refusal("it is damaged")
    tokens = np.frombuffer(body, "<i4", n).astype(np.int32)
    return tokens, np.frombuffer(body, np.uint8, n_bytes, 4 * n), len(head) + len(body)


def _open_without_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # opening a pipe would block for ever


def _refusal(reason: str) -> RequestError:
    return RequestError(f"Unable to restore slot: {reason}", param="filename")
