"""The rules for drafters: drafts are valid, and depend on nothing but the text and what has ended before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llamafw.errors import SettingsError
from llamafw.interfaces import BackendContext, Drafter, DrafterContext, DraftModel, DraftRequest
from llamafw.models.gguf import read_gguf
from llamafw.settings import Settings
from llamafw.testing.backend import DeterministicBackend
from llamafw.testing.conformance.base import ProtocolConformance, tokenizer
from llamafw.types import BackendOptions, Ints

N_SLOTS, N_CTX = 3, 256
UNIT = [5, 9, 14, 3, 8, 21, 2, 11, 30, 4, 17, 6, 25, 13]
TEXTS = (UNIT * 3, [7, *UNIT, 1, *UNIT[:13]], list(range(40, 75)), [UNIT[0]], [3] * 60)
"""Texts that repeat themselves, and others."""


class DrafterConformance(ProtocolConformance):
    """Subclass it and give the ``name``.

    Attributes
    ----------
    settings : dict
        Settings of the server with which the drafter is created.
    """

    kind = "drafter"
    settings: ClassVar[dict[str, Any]] = {}

    def test_drafts_are_valid(self, tiny_model: Path) -> None:
        """`draft` returns an int32 array for each request, with at most ``n_max`` tokens of the vocabulary."""
        with self.open(tiny_model) as drafter:
            assert drafter.n_max >= 1, f"n_max is {drafter.n_max}"
            for text in TEXTS:
                for n_max in (1, 3, drafter.n_max):
                    self.draft(drafter, text, n_max=n_max)

    def test_texts_may_grow_and_change(self, tiny_model: Path) -> None:
        """A text that has grown, lost tokens in the middle, or is another one gets the draft of a new drafter."""
        text = TEXTS[1]
        changes = (text, [*text, 4], [*text, 4, 4, 4], text[:5] + text[9:], TEXTS[0], text[:20], TEXTS[2])
        with self.open(tiny_model) as drafter:
            for change in changes:
                draft = self.draft(drafter, change)
                with self.open(tiny_model) as fresh:
                    expected = self.draft(fresh, change)
                assert draft == expected, f"the draft is {draft} after other texts, and {expected} without"

    def test_responses_are_independent(self, tiny_model: Path) -> None:
        """Responses that are drafted in one call get the same drafts as alone."""
        texts = TEXTS[:N_SLOTS]
        with self.open(tiny_model) as drafter:
            drafts = drafter.draft([request(i, text, drafter.n_max) for i, text in enumerate(texts)])
            together = [draft.tolist() for draft in drafts]
        for text, draft in zip(texts, together, strict=True):
            with self.open(tiny_model) as fresh:
                alone = self.draft(fresh, text)
            assert draft == alone, f"the draft is {draft} together with others, and {alone} alone"

    def test_text_is_not_changed(self, tiny_model: Path) -> None:
        """`draft` does not write into the tokens, and its results stay the same when they change."""
        with self.open(tiny_model) as drafter:
            asked = request(0, TEXTS[0], drafter.n_max)
            (draft,) = drafter.draft([asked])
            assert asked.tokens.tolist() == TEXTS[0], "draft changed the tokens of its request"
            kept = draft.tolist()
            asked.tokens[...] = 1
            assert draft.tolist() == kept, "a draft changes with the tokens of its request; return a copy"

    def test_slots_are_used_again(self, tiny_model: Path) -> None:
        """After `finish`, also without a draft before, the slot can have another response."""
        with self.open(tiny_model) as drafter:
            drafter.finish(1, np.array(UNIT, np.int32))
            for text in TEXTS:
                self.draft(drafter, text)
                drafter.finish(0, np.array(text[-5:], np.int32))
            drafter.finish(0, np.array([], np.int32))
            self.draft(drafter, TEXTS[0])

    # --- helpers

    def implementations(self, tiny_model: Path) -> Iterator[tuple[type, Any]]:
        """Yield a drafter."""
        with self.open(tiny_model) as drafter:
            yield Drafter, drafter

    @contextmanager
    def open(self, path: Path) -> Iterator[Drafter]:
        """Create a drafter with a draft model without weights, and close it at the end."""
        quants = self.registry("quant")

        def load_draft_model() -> DraftModel:
            model = read_gguf(path, quants)
            graph = self.registry("architecture")["llama"](model)
            options = BackendOptions(n_slots=N_SLOTS, n_ctx=N_CTX)
            return DraftModel(model, DeterministicBackend(BackendContext(model, graph, options, quants)))

        def load_prediction() -> DraftModel:
            raise SettingsError("the model does not have a block for multi-token prediction")

        settings = Settings(**self.settings)
        context = DrafterContext(settings, tokenizer(), N_SLOTS, N_CTX, load_draft_model, load_prediction)
        drafter: Drafter = self.registered()(context)
        try:
            yield drafter
        finally:
            if hasattr(drafter, "close"):
                drafter.close()

    def draft(self, drafter: Drafter, text: Sequence[int], n_max: int | None = None) -> list[int]:
        """Return the draft for a text in slot 0; fail if it is not valid."""
        asked = request(0, text, drafter.n_max if n_max is None else n_max)
        drafts = drafter.draft([asked])
        assert len(drafts) == 1, f"draft returned {len(drafts)} drafts for one request"
        draft: Ints = drafts[0]
        is_right = isinstance(draft, np.ndarray) and draft.dtype == np.int32 and draft.ndim == 1
        assert is_right, f"draft returned {draft!r:.80}, not an int32 array with one dimension"
        assert len(draft) <= asked.n_max, f"a draft has {len(draft)} tokens, but n_max is {asked.n_max}"
        in_vocabulary = ((draft >= 0) & (draft < tokenizer().n_vocab)).all()
        assert in_vocabulary, f"a draft has tokens outside of the vocabulary: {draft.tolist()}"
        tokens: list[int] = draft.tolist()
        return tokens


def request(slot: int, text: Sequence[int], n_max: int) -> DraftRequest:
    """Return a request for a text."""
    return DraftRequest(slot, np.array(text, np.int32), n_max)
