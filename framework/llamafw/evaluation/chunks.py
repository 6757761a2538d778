"""Divide a text into chunks of equal length, and run a backend over them.

As llama-perplexity does: each chunk starts anew, and its first token is replaced by BOS if the model wants one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llamafw.errors import SettingsError
from llamafw.interfaces import Backend, Tokenizer
from llamafw.types import Batch, Floats, Ints

MIN_CONTEXT = 8  # tokens per chunk


@dataclass(frozen=True, slots=True)
class Chunks:
    """The tokens of a text in chunks, ``(n_chunks, n_ctx)`` int32."""

    tokens: Ints
    bos: int | None  # replaces the first token of each chunk; None: nothing does

    @property
    def n_ctx(self) -> int:
        """Tokens per chunk."""
        return int(self.tokens.shape[1])

    def __iter__(self) -> Iterator[Ints]:
        """Yield each chunk as the model sees it, (n_ctx,) int32."""
        for chunk in self.tokens:
            if self.bos is None:
                yield chunk
            else:
                changed = chunk.copy()
                changed[0] = self.bos
                yield changed


def make_chunks(
    text: str, tokenizer: Tokenizer, n_ctx: int, *, n_chunks: int = 0, parse_special: bool = False
) -> Chunks:
    """Return a text in chunks; tokens after the last whole chunk are left out.

    Parameters
    ----------
    text : str
        The text.
    tokenizer : Tokenizer
        The model's tokenizer.
    n_ctx : int
        Tokens per chunk.
    n_chunks : int
        Maximum number of chunks; 0: as many as the text has.
    parse_special : bool
        Turn the text of special tokens, such as ``<|im_end|>``, into these tokens.

    Raises
    ------
    SettingsError
        The text is shorter than two chunks, or a chunk than `MIN_CONTEXT`.
    """
    if n_ctx < MIN_CONTEXT:
        raise SettingsError(f"the context has {n_ctx} tokens; it must have at least {MIN_CONTEXT}")
    tokens = np.array(tokenizer.encode(text, add_special=True, parse_special=parse_special), np.int32)
    if len(tokens) < 2 * n_ctx:
        raise SettingsError(
            f"the text has {len(tokens)} tokens; with a context of {n_ctx} it must have at least {2 * n_ctx}: "
            "take a longer text, or a smaller context (-c)"
        )
    n = len(tokens) // n_ctx
    n = min(n, n_chunks) if n_chunks > 0 else n
    bos = tokenizer.bos if tokenizer.add_bos else None
    return Chunks(tokens[: n * n_ctx].reshape(n, n_ctx), bos)


def run_chunk(backend: Backend, chunk: Ints, first: int, *, hidden: bool = False) -> Iterator[Floats]:
    """Run a model over a chunk; yield the logits or hidden states of its tokens, some at a time.

    Parameters
    ----------
    backend : Backend
        The backend; slot 0 is used.
    chunk : (n_ctx,) int32
        The tokens.
    first : int
        The first token whose logits are wanted.
    hidden : bool
        Yield hidden states instead of logits.

    Yields
    ------
    (n, n_vocab) or (n, n_embd) float32
        Valid until the next one is asked for.
    """
    backend.truncate(0, 0)
    n_batch = len(chunk) if backend.whole_texts else backend.n_batch
    for start in range(0, len(chunk), n_batch):
        tokens = chunk[start : start + n_batch]
        positions = np.arange(start, start + len(tokens), dtype=np.int32)
        outputs = np.arange(max(first - start, 0), len(tokens), dtype=np.int32)
        batch = Batch(tokens, positions, np.zeros(len(tokens), np.int32), outputs)
        rows = (backend.hidden if hidden else backend.forward)(batch)
        if len(outputs):
            yield rows
