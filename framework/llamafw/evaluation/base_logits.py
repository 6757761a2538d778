"""Files with what a model predicts for each token of a text, with which other models are compared.

They are those of llama-perplexity: ``--save-all-logits`` of both programs writes them, and ``--kl-divergence-base``
reads them. After a header and the text's tokens, each token that counts has a row: a scale and a minimum as float32,
and the logarithms of the probabilities as 16-bit integers, of which the lowest also stands for all below.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from llamafw.errors import ModelError
from llamafw.evaluation.chunks import Chunks
from llamafw.types import Bytes, Floats, Ints

MAGIC = b"_logits_"
_HEADER = struct.Struct("<Iii")  # tokens per chunk, tokens of the vocabulary, number of chunks
_RANGE = 16.0  # of logits that a row distinguishes
_LEVELS = 65535


class BaseWriter:
    """Writes a file.

    `add` appends the chunks' rows, in order.

    Parameters
    ----------
    file : binary file
        The file, open for writing.
    chunks : Chunks
        The text.
    n_vocab : int
        Size of the vocabulary.
    """

    def __init__(self, file: BinaryIO, chunks: Chunks, n_vocab: int) -> None:
        self._file, self._n_vocab = file, n_vocab
        file.write(MAGIC + _HEADER.pack(chunks.n_ctx, n_vocab, len(chunks.tokens)))
        file.write(chunks.tokens.astype("<i4").tobytes())

    def add(self, shifted: Floats) -> None:
        """Append rows: logits, ``(n, n_vocab)`` float32, with each row's maximum subtracted."""
        shifted = shifted[:, : self._n_vocab]
        low = np.maximum(shifted.min(axis=1), np.float32(-_RANGE))
        scale = -low / np.float32(_LEVELS)
        log_sum = np.log(np.exp(shifted).sum(axis=1, dtype=np.float64))
        steps = np.divide(shifted - low[:, None], scale[:, None], out=np.zeros_like(shifted), where=scale[:, None] > 0)
        rows = np.zeros((len(shifted), row_size(self._n_vocab)), "<u2")
        rows[:, :4] = np.stack([scale, low - log_sum], 1).astype("<f4").view("<u2")
        rows[:, 4 : 4 + self._n_vocab] = np.clip(np.rint(steps), 0, _LEVELS)
        self._file.write(rows.tobytes())


@dataclass(frozen=True, slots=True)
class BaseLogits:
    """A file that is read chunk by chunk."""

    path: Path
    tokens: Ints  # (n_chunks, n_ctx)
    n_vocab: int

    @property
    def n_rows(self) -> int:
        """Rows per chunk."""
        return int(self.tokens.shape[1]) - 1 - int(self.tokens.shape[1]) // 2

    def __iter__(self) -> Iterator[Floats]:
        """Yield the logarithms of the probabilities for each chunk, (n_rows, n_vocab) float32."""
        size = row_size(self.n_vocab)
        start = len(MAGIC) + _HEADER.size + 4 * self.tokens.size
        rows: Bytes = np.memmap(self.path, np.uint8, "r", start)
        chunks = rows.view("<u2").reshape(len(self.tokens), self.n_rows, size)
        for chunk in chunks:
            scale, low = np.ascontiguousarray(chunk[:, :4]).view("<f4").T
            yield chunk[:, 4 : 4 + self.n_vocab].astype(np.float32) * scale[:, None] + low[:, None]


def read_base(path: Path) -> BaseLogits:
    """Open a file.

    Raises
    ------
    ModelError
        The file cannot be read, is another file, or is incomplete.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(MAGIC) + _HEADER.size)
            if len(head) < len(MAGIC) + _HEADER.size or head[: len(MAGIC)] != MAGIC:
                raise ModelError(f"{path} is not a file of --save-all-logits")
            n_ctx, n_vocab, n_chunks = _HEADER.unpack_from(head, len(MAGIC))
            size = path.stat().st_size
            n_rows = n_ctx - 1 - n_ctx // 2
            expected = len(head) + 4 * n_ctx * n_chunks + 2 * n_chunks * n_rows * row_size(max(n_vocab, 0))
            if min(n_vocab, n_chunks, n_rows) < 1 or size != expected:
                raise ModelError(f"{path} is damaged: it has {size} bytes, and its header says {expected}")
            tokens = np.frombuffer(file.read(4 * n_ctx * n_chunks), "<i4").reshape(n_chunks, n_ctx)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    return BaseLogits(path, tokens, n_vocab)


def row_size(n_vocab: int) -> int:
    """Return how many 16-bit numbers a row has."""
    return 2 * ((n_vocab + 1) // 2) + 4
