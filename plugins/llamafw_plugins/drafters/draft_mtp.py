"""Guess with the model's own block for multi-token prediction, from the model's hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from llamafw import (
    Batch,
    Drafter,
    DrafterContext,
    DraftRequest,
    EvaluatedTokens,
    Floats,
    HiddenBackend,
    Ints,
    SharingBackend,
)
from llamafw_plugins.drafters.guesses import guess
from llamafw_plugins.drafters.ngrams import NO_TOKENS

MAX_WAITING = 64
"""Pairs of a text that wait to be evaluated with the next draft; with more of them, they are evaluated at once."""

_MIN_TOKENS_TO_SHARE = 16


@dataclass(slots=True)
class _Text:
    """What the block's cache has of the text in a slot.

    A pair is a token with the hidden state before it. Pairs that were not seen are left out; the others keep their
    order.
    """

    tokens: Ints = field(default_factory=lambda: NO_TOKENS)  # (n_pairs,) their tokens
    places: Ints = field(default_factory=lambda: NO_TOKENS)  # (n_pairs,) and where these are in the text
    waiting: list[Floats] = field(default_factory=list)  # (n_embd,) hidden states of the last pairs, not evaluated yet
    hidden: Floats | None = None  # (n_embd,) the hidden state of the last token that was seen
    n_seen: int = 0  # tokens of the text up to that one

    @property
    def n_cached(self) -> int:
        """Number of pairs in the cache."""
        return len(self.tokens) - len(self.waiting)

    def n_before(self, place: int) -> int:
        """Return how many pairs have tokens before a place in the text."""
        return int(np.searchsorted(self.places, place))

    def n_common(self, tokens: Ints) -> int:
        """Return how many of the first pairs belong to a text."""
        n = self.n_before(len(tokens))
        differs = self.tokens[:n] != tokens[self.places[:n]]
        return int(differs.argmax()) if differs.any() else n

    def add(self, tokens: Ints, first: int, hidden: Sequence[Floats]) -> None:
        """Add the pairs of ``tokens``, which are in the text from ``first`` on."""
        self.tokens = np.concatenate([self.tokens, tokens])
        self.places = np.concatenate([self.places, np.arange(first, first + len(tokens), dtype=np.int32)])
        self.waiting += hidden


@dataclass(frozen=True, slots=True)
class _Part:
    """Pairs of one slot in a batch."""

    slot: int
    first: int  # position of the first one in the block's cache
    tokens: Ints  # (n,)
    hidden: Sequence[Floats]  # n of (n_embd,)


@dataclass(slots=True)
class _Draft:
    """One draft while it is made."""

    request: DraftRequest
    tokens: list[int] = field(default_factory=list)


class DraftMtp:
    """Guesses with the block that a model was trained with to predict the token after the next one.

    The block has a cache of its own, with a slot for each of the model's. It reads what the model evaluates, with the
    model's hidden states. Its first guess follows from the model's last hidden state and the token that was drawn; for
    further ones, the block's own hidden states take the place of the model's. When the model has evaluated a draft, its
    hidden states replace them. See `llamafw.graph.prediction`.

    Parameters
    ----------
    backend : HiddenBackend
        Runs the block.
    n_vocab : int
        Number of tokens that may be guessed.
    n_max : int
        Maximum number of tokens to guess.
    """

    def __init__(self, backend: HiddenBackend, n_vocab: int, n_max: int) -> None:
        self.n_max = n_max
        self._backend, self._n_vocab = backend, min(n_vocab, backend.n_vocab)
        self._texts = [_Text() for _ in range(backend.n_slots)]
        self._sharing = cast("SharingBackend", backend) if hasattr(backend, "share_prefix") else None

    @classmethod
    def create(cls, context: DrafterContext) -> Drafter:
        """Return the drafter of a model; load the block."""
        backend = context.load_prediction().backend
        return cls(cast("HiddenBackend", backend), context.tokenizer.n_vocab, context.settings.spec_draft_n_max)

    # --- reading

    def observe(self, states: Sequence[EvaluatedTokens]) -> None:
        """Take over hidden states; evaluate pairs if there are many."""
        for one in states:
            self._add(one)
            if len(self._texts[one.slot].waiting) > MAX_WAITING:
                self._read(one.slot, 0)

    def _add(self, seen: EvaluatedTokens) -> None:
        """Let the pairs of tokens that were evaluated wait."""
        tokens, n = seen.tokens, len(seen.hidden)
        first = len(tokens) - n
        text, n_common = self._texts[seen.slot], self._texts[seen.slot].n_common(tokens)
        is_continued = text.n_seen == first and text.hidden is not None and n_common == len(text.tokens)
        if not is_continued:
            n_common = self._share(seen.slot, tokens[:first], n_common)
            self._cut(seen.slot, n_common)

        rows = [*([text.hidden] if is_continued and text.hidden is not None else []), *seen.hidden[:-1].copy()]
        start = len(tokens) - len(rows)
        n_before, n_known = text.n_before(start), len(text.places) - text.n_before(start)
        if n_known and (text.places[n_before], text.places[-1]) != (start, start + n_known - 1):
            self._cut(seen.slot, n_before)  # some between them are missing
            n_known = 0
        text.add(tokens[start + n_known :], start + n_known, rows[n_known:])
        text.hidden, text.n_seen = seen.hidden[-1].copy(), len(tokens)

    def _share(self, slot: int, tokens: Ints, n_common: int) -> int:
        """Take the pairs of the start of a text from another slot if it has many more; return how many there are."""
        if self._sharing is None:
            return n_common
        counts = [min(text.n_common(tokens), text.n_cached) for text in self._texts]
        other = int(np.argmax(counts))
        if counts[other] < n_common + _MIN_TOKENS_TO_SHARE:
            return n_common
        self._cut(slot, 0)
        self._sharing.share_prefix(other, slot, counts[other])
        text, source = self._texts[slot], self._texts[other]
        text.tokens, text.places = source.tokens[: counts[other]], source.places[: counts[other]]
        return counts[other]

    def _cut(self, slot: int, n: int) -> None:
        """Remove pairs from the end until ``n`` are left, or fewer if the cache cannot be cut there."""
        text = self._texts[slot]
        self._shorten(text, self._backend.truncate(slot, n) if n < text.n_cached else n)

    @staticmethod
    def _shorten(text: _Text, n: int) -> None:
        """Record that only the first ``n`` pairs are left."""
        text.waiting = text.waiting[: max(n - text.n_cached, 0)]
        text.tokens, text.places = text.tokens[:n], text.places[:n]

    def _read(self, slot: int, n_left: int) -> None:
        """Evaluate the pairs that wait, but for the last ``n_left``."""
        text = self._texts[slot]
        while len(text.waiting) > n_left:
            part = self._waiting(slot, min(len(text.waiting) - n_left, self._backend.n_batch))
            self._backend.forward(_batch([part], outputs=False))
            text.waiting = text.waiting[len(part.tokens) :]

    def _waiting(self, slot: int, n: int) -> _Part:
        """Return the next ``n`` pairs that wait, or all if there are fewer."""
        text = self._texts[slot]
        first, rows = text.n_cached, text.waiting[:n]
        return _Part(slot, first, text.tokens[first : first + len(rows)], rows)

    # --- guessing

    def draft(self, requests: Sequence[DraftRequest]) -> Sequence[Ints]:
        """Return what the block predicts, drawn as the responses will."""
        drafts = [_Draft(request) for request in requests]
        active = [draft for draft in drafts if self._prepare(draft.request)][: self._backend.n_batch]
        parts = []
        for draft in active:
            n = self._backend.n_batch // len(active)
            self._read(draft.request.slot, n)
            parts.append(self._waiting(draft.request.slot, n))

        started = active
        while active:
            rows = self._evaluate(parts)
            for draft in active:
                self._texts[draft.request.slot].waiting = []
            found = [
                (draft, part) for draft, row in zip(active, rows, strict=True) if (part := self._extend(draft, *row))
            ]
            active, parts = [draft for draft, _ in found], [part for _, part in found]
        for draft in started:
            slot, text = draft.request.slot, self._texts[draft.request.slot]
            self._shorten(text, self._backend.truncate(slot, len(text.tokens)))
        return [np.array(draft.tokens, np.int32) for draft in drafts]

    def _prepare(self, request: DraftRequest) -> bool:
        """Let the last token of a text wait with the hidden state before it; return whether that is known."""
        text, tokens = self._texts[request.slot], request.tokens
        last = len(tokens) - 1
        if text.hidden is None or text.n_seen != last:
            return False
        self._cut(request.slot, min(text.n_common(tokens), text.n_before(last)))
        text.add(tokens[last:], last, [text.hidden])
        return int(tokens[last]) < self._backend.n_vocab

    def _evaluate(self, parts: Sequence[_Part]) -> list[tuple[Floats, Floats]]:
        """Evaluate some pairs; return the logits and the hidden state of the last one of each slot."""
        logits, hidden = self._backend.forward_with_hidden(_batch(parts, outputs=True))
        ends = np.cumsum([len(part.tokens) for part in parts])
        return [(logits[i, : self._n_vocab], hidden[end - 1]) for i, end in enumerate(ends)]

    def _extend(self, draft: _Draft, logits: Floats, hidden: Floats) -> _Part | None:
        """Add a token to a draft; return the pair to evaluate next, or None if no other is wanted."""
        request, text = draft.request, self._texts[draft.request.slot]
        token = guess(logits, request)
        if token is None:
            return None
        place = len(text.tokens) + len(draft.tokens)
        draft.tokens.append(token)
        if len(draft.tokens) == min(request.n_max, self.n_max) or place == self._backend.n_ctx:
            return None
        return _Part(request.slot, place, np.array([token], np.int32), [hidden])

    def finish(self, slot: int, drawn: Ints) -> None:
        """Keep the cache: the next text in the slot may begin like this one."""

    def close(self) -> None:
        """Close the block's backend."""
        self._backend.close()


def _batch(parts: Sequence[_Part], *, outputs: bool) -> Batch:
    """Return a batch, whose outputs are the last pairs of the slots, or none."""
    counts = [len(part.tokens) for part in parts]
    positions = [np.arange(part.first, part.first + n) for part, n in zip(parts, counts, strict=True)]
    return Batch(
        tokens=np.concatenate([part.tokens for part in parts]),
        positions=np.concatenate(positions).astype(np.int32),
        slots=np.repeat(np.array([part.slot for part in parts], np.int32), counts),
        outputs=np.cumsum(counts, dtype=np.int32) - 1 if outputs else NO_TOKENS,
        hidden=np.stack([row for part in parts for row in part.hidden]),
    )
