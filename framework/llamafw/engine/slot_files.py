"""Reads and writes the files of saved slots, which `POST /slots/{id}?action=save` creates; see `state_files`."""

from __future__ import annotations

from pathlib import Path

from llamafw.engine import state_files
from llamafw.engine.atomic_files import remove_orphans
from llamafw.engine.prompt_cache import Entry
from llamafw.engine.state_files import SLOT
from llamafw.errors import GenerationError, RequestError
from llamafw.types import Bytes, Ints, Strengths


def write(path: Path, fingerprint: bytes, tokens: Ints, state: Bytes, adapters: Strengths) -> int:
    """Write the file atomically; return its size in bytes.

    Its folder is created again if somebody has removed it, and temporary files of servers that were killed are removed.

    Raises
    ------
    RequestError
        The path is a folder, or the name of a temporary file.
    GenerationError
        The file cannot be written.
    """
    if path.name.startswith(SLOT.prefix):
        raise RequestError(f"Invalid filename: {SLOT.prefix} begins the names of temporary files", param="filename")
    entry = Entry(tokens, state, adapters=adapters)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_orphans(path.parent, SLOT.prefix)
        state_files.write(path, SLOT, fingerprint, entry)
    except IsADirectoryError:
        raise RequestError("Invalid filename: it is a folder", param="filename") from None
    except OSError as error:
        raise GenerationError(f"the slot cannot be saved: {error.strerror}") from error
    return state_files.file_size(entry)


def read(path: Path, fingerprint: bytes, n_ctx: int) -> tuple[Entry, int]:
    """Return what a file holds, and its size in bytes.

    Raises
    ------
    RequestError
        The file does not exist, is incomplete or damaged, was saved from another model or backend, or has more than
        ``n_ctx`` tokens.
    """
    try:
        head = state_files.read_head(path, SLOT, fingerprint)
        if len(head.tokens) > n_ctx:
            raise ValueError(f"it has {len(head.tokens)} tokens; the context of a slot is {n_ctx}")
        entry = Entry(head.tokens, state_files.read_state(path, head), adapters=head.adapters)
    except OSError as error:
        raise _refusal(error.strerror or "it cannot be read") from None
    except ValueError as error:
        raise _refusal(str(error)) from None
    return entry, state_files.file_size(entry)


def _refusal(reason: str) -> RequestError:
    return RequestError(f"Unable to restore slot: {reason}", param="filename")
