"""Guess with a small model what a large one of the same family will write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llamafw import Backend, Batch, Drafter, DrafterContext, DraftRequest, Floats, Ints
from llamafw_plugins.drafters.guesses import guess
from llamafw_plugins.drafters.ngrams import NO_TOKENS


@dataclass(slots=True)
class _Text:
    """One response while it is drafted."""

    request: DraftRequest
    rest: Ints  # tokens that are not in the draft model's cache
    draft: list[int]
    is_wanted: bool = True  # further tokens are guessed


class DraftSimple:
    """Guesses with a draft model, for all responses in the same batches.

    It draws from the draft model's logits as the responses will from those of the model, with the same random numbers.
    Thus, sampled text agrees with its draft almost as often as greedy text.

    Its cache has a slot for each of the model's. A long text is read in parts, one per call, so that other responses do
    not wait; until all of it is read, nothing is guessed. See Leviathan et al., Fast Inference from Transformers via
    Speculative Decoding, ICML 2023.

    Parameters
    ----------
    backend : Backend
        Runs the draft model.
    n_vocab : int
        Number of tokens that may be guessed.
    n_max : int
        Maximum number of tokens to guess.
    n_ubatch : int
        Maximum number of tokens to read per call.
    """

    def __init__(self, backend: Backend, n_vocab: int, n_max: int, n_ubatch: int) -> None:
        self.n_max = n_max
        self._backend, self._n_vocab = backend, min(n_vocab, backend.n_vocab)
        self._n_batch = min(n_ubatch, backend.n_batch)
        self._cached: list[Ints] = [NO_TOKENS] * backend.n_slots  # the tokens in each slot
        self._hold = getattr(backend, "hold_state", None)  # of a `llamafw.HoldingBackend`

    @classmethod
    def create(cls, context: DrafterContext) -> Drafter:
        """Return the drafter of a model; load the draft model."""
        settings = context.settings
        backend = context.load_draft_model().backend
        return cls(backend, context.tokenizer.n_vocab, settings.spec_draft_n_max, settings.ubatch_size)

    def draft(self, requests: Sequence[DraftRequest]) -> Sequence[Ints]:
        """Return what the draft model would write."""
        texts = [self._prepare(request) for request in requests]
        rows = self._read([text for text in texts if text.is_wanted])
        while rows:
            for text, row in rows:
                self._append(text, row)
            rows = self._read([text for text in texts if text.is_wanted])
        return [np.array(text.draft, np.int32) for text in texts]

    def finish(self, slot: int, drawn: Ints) -> None:
        """Keep the cache: the next text in the slot may begin like this one."""

    def close(self) -> None:
        """Close the draft model."""
        self._backend.close()

    def _prepare(self, request: DraftRequest) -> _Text:
        """Cut a slot to the common prefix of its contents and a text."""
        tokens, cached = request.tokens, self._cached[request.slot]
        n_common = min(len(tokens) - 1, len(cached))
        differs = tokens[:n_common] != cached[:n_common]
        n_common = int(differs.argmax()) if differs.any() else n_common
        if n_common < len(cached):
            self._cached[request.slot] = cached[: self._backend.truncate(request.slot, n_common)]
        rest = tokens[len(self._cached[request.slot]) :].copy()
        fits = len(tokens) < self._backend.n_ctx and int(tokens.max()) < self._backend.n_vocab
        return _Text(request, rest, [], is_wanted=fits)

    def _read(self, texts: Sequence[_Text]) -> list[tuple[_Text, Floats]]:
        """Evaluate the tokens of some texts; return the logits of the next token of those that are read completely."""
        parts: list[tuple[_Text, Ints]] = []
        n_free = self._n_batch
        for text in texts:
            part = text.rest[:n_free]
            if len(part):
                parts.append((text, part))
                n_free -= len(part)
            else:
                text.is_wanted = False  # its turn comes with the next call
        if not parts:
            return []

        logits = self._backend.forward(self._batch(parts))
        rows = iter(logits[:, : self._n_vocab])
        complete = []
        for text, part in parts:
            slot = text.request.slot
            self._cached[slot] = np.concatenate([self._cached[slot], part])
            text.rest = text.rest[len(part) :]
            if len(text.rest):
                text.is_wanted = False
                continue
            if self._hold is not None and not self._backend.can_cut and not text.draft:
                self._hold(slot)
            complete.append((text, next(rows)))
        return complete

    def _batch(self, parts: Sequence[tuple[_Text, Ints]]) -> Batch:
        counts = [len(part) for _, part in parts]
        starts = [len(self._cached[text.request.slot]) for text, _ in parts]
        ends = np.cumsum(counts)
        positions = [np.arange(start, start + n) for start, n in zip(starts, counts, strict=True)]
        outputs = [end - 1 for end, (text, part) in zip(ends, parts, strict=True) if len(part) == len(text.rest)]
        slots = [text.request.slot for text, _ in parts]
        return Batch(
            tokens=np.concatenate([part for _, part in parts]),
            positions=np.concatenate(positions).astype(np.int32),
            slots=np.repeat(np.array(slots, np.int32), counts),
            outputs=np.array(outputs, np.int32),
        )

    def _append(self, text: _Text, row: Floats) -> None:
        """Add a token to a draft, and prepare to read it if another one is wanted."""
        request = text.request
        token = guess(row, request)
        if token is None:
            text.is_wanted = False
            return
        text.draft.append(token)
        text.rest = np.array([token], np.int32)
        n_next = len(request.tokens) + len(text.draft)
        text.is_wanted = len(text.draft) < min(request.n_max, self.n_max) and n_next < self._backend.n_ctx
