"""The drafter that runs a small model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from llamafw import DraftRequest, Floats
from llamafw_plugins.drafters.draft_simple import DraftSimple
from support.toy_model import N_VOCAB, ToyBackend, random_logits
from support.toy_snapshots import RecurrentToyBackend

KINDS: dict[str, type[ToyBackend]] = {"plain": ToyBackend, "recurrent": RecurrentToyBackend}


@pytest.fixture(params=KINDS)
def backend(request: pytest.FixtureRequest) -> ToyBackend:
    """The backend of the draft model."""
    return KINDS[request.param](n_slots=3)


def make(backend: Any, n_max: int = 4, n_ubatch: int = 32) -> DraftSimple:
    return DraftSimple(backend, N_VOCAB, n_max, n_ubatch)


def ask(drafter: DraftSimple, *texts: Sequence[int], n_max: int = 100, p_min: float = 0.0) -> list[list[int]]:
    requests = [DraftRequest(slot, np.array(text, np.int32), n_max, p_min) for slot, text in enumerate(texts)]
    return [draft.tolist() for draft in drafter.draft(requests)]


def greedy(text: Sequence[int], n: int) -> list[int]:
    """Return the next n most likely tokens."""
    tokens = list(text)
    for _ in range(n):
        tokens.append(int(random_logits(tokens).argmax()))
    return tokens[len(text) :]


def test_draft_is_what_the_model_would_write(backend: ToyBackend) -> None:
    assert ask(make(backend), [1, 2, 3]) == [greedy([1, 2, 3], 4)]


def test_number_of_tokens_is_limited(backend: ToyBackend) -> None:
    assert ask(make(backend), [1, 2, 3], n_max=2) == [greedy([1, 2, 3], 2)]
    assert len(backend.batches) == 2  # the prompt, and one token: the last one of a draft is not read


@pytest.mark.parametrize("n_right", range(5))
def test_only_new_tokens_are_read(backend: ToyBackend, n_right: int) -> None:
    drafter = make(backend)
    text = [1, 2, 3]
    (draft,) = ask(drafter, text)
    text += [*draft[:n_right], 200]
    n_before = backend.n_evaluated
    assert ask(drafter, text) == [greedy(text, 4)]
    n_again = 0 if backend.can_cut else n_right  # a recurrent model goes back to the state before its draft
    n_kept = min(n_right, 3)  # of the draft, the last token was not read
    n_again = n_kept if not backend.can_cut and n_right < 3 else 0
    assert backend.n_evaluated - n_before == len(text) - 3 - n_kept + n_again + 3


def test_responses_are_drafted_in_the_same_batches(backend: ToyBackend) -> None:
    texts = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    assert ask(make(backend), *texts) == [greedy(text, 4) for text in texts]
    assert [len(batch.tokens) for batch in backend.batches] == [9, 3, 3, 3]


def test_long_text_is_read_in_parts(backend: ToyBackend) -> None:
    drafter, text = make(backend, n_ubatch=16), list(range(40))
    assert ask(drafter, text) == [[]]
    assert ask(drafter, [*text, 5]) == [[]]
    assert ask(drafter, [*text, 5, 6]) == [greedy([*text, 5, 6], 4)]
    assert [len(batch.tokens) for batch in backend.batches[:3]] == [16, 16, 10]


def test_long_text_does_not_delay_others(backend: ToyBackend) -> None:
    drafter, long = make(backend, n_ubatch=16), list(range(30))
    first = ask(drafter, [1, 2, 3], long)
    assert first == [greedy([1, 2, 3], 4), []]
    second = ask(drafter, [1, 2, 3, 4], [*long, 7])
    assert second[0] == greedy([1, 2, 3, 4], 4)


def test_draft_ends_before_an_unlikely_token() -> None:
    def logits(prefix: Sequence[int]) -> Floats:
        row = np.full(N_VOCAB, -np.inf, np.float32)
        row[100:102] = (2.0, 0.0) if len(prefix) < 6 else (0.1, 0.0)  # probabilities 0.88 and 0.52
        return row

    drafter = make(ToyBackend(logits))
    assert ask(drafter, [1, 2, 3], p_min=0.6) == [[100, 100, 100]]
    assert ask(drafter, [1, 2, 3], p_min=0.9) == [[]]
    assert ask(drafter, [1, 2, 3], p_min=0.5) == [[100, 100, 100, 100]]


def test_text_beyond_the_context_gets_no_draft() -> None:
    backend = ToyBackend(n_ctx=8)
    drafter = make(backend)
    assert ask(drafter, [1, 2, 3, 4, 5, 6]) == [greedy([1, 2, 3, 4, 5, 6], 2)]
    assert ask(drafter, [1, 2, 3, 4, 5, 6, 7, 8]) == [[]]


def test_token_that_the_draft_model_lacks_gets_no_draft() -> None:
    backend = ToyBackend()
    drafter = make(backend)
    assert ask(drafter, [1, 2, N_VOCAB]) == [[]]
    assert not backend.batches
    assert ask(drafter, [1, 2]) == [greedy([1, 2], 4)]


def test_token_that_the_model_lacks_is_not_guessed() -> None:
    drafter = DraftSimple(ToyBackend(), 100, 4, 32)
    (draft,) = ask(drafter, [1, 2])
    assert draft[0] == int(random_logits([1, 2])[:100].argmax())
    assert max(draft) < 100


def test_shifted_text_is_read_again(backend: ToyBackend) -> None:
    drafter = make(backend)
    ask(drafter, [1, 2, 3, 4, 5, 6])
    assert ask(drafter, [1, 2, 5, 6, 7]) == [greedy([1, 2, 5, 6, 7], 4)]


def test_closing_closes_the_model(backend: ToyBackend) -> None:
    make(backend).close()
    assert backend.closed
