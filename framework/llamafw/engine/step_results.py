"""Runs the forward pass of a step, with as much of its results as the tasks and the drafters need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from llamafw.engine.scheduler import BatchPart
from llamafw.engine.speculation import may_draft
from llamafw.interfaces import Backend, CandidateBackend, HiddenBackend
from llamafw.types import Batch, Floats, Ints

_MANY = 2**62  # more tokens than any vocabulary has
_MIN_SAVING = 8  # the most likely tokens are requested if they are at most an eighth of the vocabulary


@dataclass(frozen=True, slots=True)
class StepResults:
    """What a forward pass returns."""

    rows: Floats  # (m, n) logits or hidden states of the outputs
    ids: Ints | None = None  # (m, n) the tokens of the logits, if these are only the most likely ones
    hidden: Floats | None = None  # (n_tokens, n_embd) hidden states of all tokens, if a drafter sees them

    def by_part(self, parts: Sequence[BatchPart]) -> Iterator[tuple[BatchPart, Floats, Ints | None]]:
        """Yield each part with its rows, and with the tokens of its logits."""
        first = 0
        for part in parts:
            here = slice(first, first + len(part.outputs))
            yield part, self.rows[here], None if self.ids is None else self.ids[here]
            first = here.stop


def evaluate_batch(
    backend: Backend, batch: Batch, parts: Sequence[BatchPart], n_vocab: int, *, with_hidden: bool
) -> StepResults:
    """Run a forward pass.

    Parameters
    ----------
    backend : Backend
        Runs the model.
    batch : Batch
        The tokens.
    parts : sequence of BatchPart
        What the batch was made of; all need the same kind of output.
    n_vocab : int
        Number of tokens that may be drawn.
    with_hidden : bool
        Whether a drafter sees the hidden states of requests that allow drafts.

    Raises
    ------
    ValueError
        The backend returned a wrong number of rows.
    """
    results = _run(backend, batch, parts, n_vocab, with_hidden=with_hidden)
    if len(results.rows) != len(batch.outputs):
        raise ValueError(f"{len(results.rows)} rows for {len(batch.outputs)} outputs")
    return results


def _run(backend: Backend, batch: Batch, parts: Sequence[BatchPart], n_vocab: int, *, with_hidden: bool) -> StepResults:
    if parts[0].task.output == "hidden":
        return StepResults(backend.hidden(batch))
    if with_hidden and any(may_draft(part.task) for part in parts):
        rows, hidden = cast("HiddenBackend", backend).forward_with_hidden(batch)
        return StepResults(rows, hidden=hidden)

    has_top_logits = hasattr(backend, "top_logits")  # it is a `CandidateBackend`
    n_top = [part.task.n_top for part in parts if len(part.outputs)] if has_top_logits else []
    n = max((_MANY if n is None else n for n in n_top), default=_MANY)
    if n > n_vocab // _MIN_SAVING:
        return StepResults(backend.forward(batch))
    ids, rows = cast("CandidateBackend", backend).top_logits(batch, n, n_vocab)
    return StepResults(rows, ids)
