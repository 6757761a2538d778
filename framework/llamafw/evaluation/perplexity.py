"""Perplexity: how well a model predicts a text, as llama-perplexity of llama.cpp defines it.

The text is divided into chunks. In each chunk, the tokens of the second half count, so that each of them is predicted
from at least half a context. The perplexity is ``exp(−mean(ln p))``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from llamafw.evaluation.chunks import Chunks, run_chunk
from llamafw.interfaces import Backend
from llamafw.types import Floats, Ints

Doubles = npt.NDArray[np.float64]

_ROWS = 64  # of logits that are converted to probabilities at once


@dataclass(slots=True)
class Mean:
    """A mean and its standard error, of numbers that are added some at a time."""

    n: int = 0
    total: float = 0.0
    total_of_squares: float = 0.0

    def add(self, numbers: Doubles) -> None:
        """Add numbers."""
        self.n += numbers.size
        self.total += float(numbers.sum())
        self.total_of_squares += float(np.square(numbers).sum())

    @property
    def value(self) -> float:
        """The mean; 0 without numbers."""
        return self.total / self.n if self.n else 0.0

    @property
    def error(self) -> float:
        """The standard error of the mean; 0 of fewer than two numbers."""
        if self.n < 2:
            return 0.0
        variance = self.total_of_squares / self.n - self.value**2
        return math.sqrt(max(variance, 0.0) / (self.n - 1))


@dataclass(slots=True)
class Perplexity:
    """The result for the chunks so far."""

    nll: Mean = field(default_factory=Mean)  # −ln p of each token

    @property
    def value(self) -> float:
        """The perplexity."""
        return math.exp(self.nll.value)

    @property
    def error(self) -> float:
        """Its standard error."""
        return self.value * self.nll.error


def log_probabilities(logits: Floats) -> tuple[Floats, Doubles]:
    """Return logits minus their maximum, ``(n, n_vocab)`` float32, and the logarithm of what they add up to.

    Their difference is the logarithm of the probabilities.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted, np.log(np.exp(shifted).sum(axis=1, dtype=np.float64))


def measure(
    backend: Backend,
    chunks: Chunks,
    finished: Callable[[Perplexity], None] = lambda result: None,
    keep: Callable[[Floats], None] = lambda logits: None,
) -> Perplexity:
    """Return the perplexity of a text.

    Parameters
    ----------
    backend : Backend
        Runs the model; it has at least `Chunks.n_ctx` positions per slot.
    chunks : Chunks
        The text.
    finished : callable
        Receives the result so far after each chunk.
    keep : callable
        Receives the logits of the tokens that count, some at a time, ``(n, n_vocab)`` float32, with each row's
        maximum subtracted. They are valid during the call.
    """
    result = Perplexity()
    for seen, chunk in zip(chunks, chunks.tokens, strict=True):
        for rows, targets in scored_rows(backend, seen, chunk):
            shifted, log_sums = log_probabilities(rows)
            result.nll.add(log_sums - shifted[np.arange(len(rows)), targets])
            keep(shifted)
        finished(result)
    return result


def scored_rows(backend: Backend, seen: Ints, chunk: Ints) -> Iterator[tuple[Floats, Ints]]:
    """Yield the logits of the tokens of a chunk that count, some at a time, and the tokens that follow them.

    Parameters
    ----------
    backend : Backend
        Runs the model.
    seen : (n_ctx,) int32
        The chunk as the model sees it.
    chunk : (n_ctx,) int32
        The tokens of the text.
    """
    position = len(chunk) // 2
    for rows in run_chunk(backend, seen, position):
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            targets = chunk[position + 1 : position + 1 + len(part)]
            position += len(part)
            if len(targets):  # nothing follows the last token
                yield part[: len(targets)], targets
