"""The drafter that runs a model's own block, against the block's graph in float64."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g
from checkpoints import write
from llamafw import DraftRequest, EvaluatedTokens, Floats
from llamafw.plugins import Plugins
from llamafw_backends.numba_cpu.backend import NumbaBackend
from llamafw_plugins.drafters.draft_mtp import MAX_WAITING, DraftMtp
from support.numba_backend import make_context
from support.predicting_models import NAMES, find

N_VOCAB, N_MAX, N_CTX = 300, 4, 256
TEXT = [(11 * i * i + 7 * i + 3) % 60 for i in range(40)]


class Block:
    """A block on the Numba backend, with what it computes in float64."""

    def __init__(self, path: Path) -> None:
        options: dict[str, Any] = {"n_ctx": N_CTX, "n_slots": 3, "n_batch": 32, "n_ubatch": 16}
        options |= {"cache_type_k": "f32", "cache_type_v": "f32"}
        context = make_context(path, change=lambda graph: graph.prediction, **options)
        self.backend: Any = NumbaBackend(replace(context, keeps_hidden=True))
        assert context.graph.logits is not None
        self.logits = context.graph.logits
        self.evaluator = g.Evaluator(context.graph, g.read_weights(context.model, Plugins().registry("quant")))

    def drafter(self, n_max: int = N_MAX) -> DraftMtp:
        for slot in range(3):
            self.backend.truncate(slot, 0)
        return DraftMtp(self.backend, N_VOCAB, n_max)

    def expected(self, text: Sequence[int], n: int = N_MAX, first: int = 0) -> list[int]:
        """Return the next tokens if the hidden states of the tokens from ``first`` on are known."""
        graph = self.evaluator.graph
        state, tokens, hidden = g.TextState(graph, N_CTX), text[first + 1 :], states(text)[first:-1].astype(np.float64)
        draft: list[int] = []
        while True:
            logits, rows = self.evaluator(tokens, state, self.logits, graph.hidden, hidden=hidden)
            draft.append(int(logits[-1, :N_VOCAB].argmax()))
            if len(draft) == n:
                return draft
            tokens, hidden = draft[-1:], rows[-1:]


@pytest.fixture(scope="module", params=NAMES)
def block(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Block]:
    """The block of a tiny model."""
    folder = tmp_path_factory.mktemp("models")
    opened = Block(write(find(request.param), folder / "model.gguf"))
    yield opened
    opened.backend.close()


def states(text: Sequence[int]) -> Floats:
    """Return random hidden states, each of which depends on the text up to its token."""
    rows = []
    for end in range(1, len(text) + 1):
        seed = zlib.crc32(np.array(text[:end], np.int32).tobytes())
        rows.append(np.random.default_rng(seed).standard_normal(64))
    return np.array(rows, np.float32)


def show(drafter: DraftMtp, text: Sequence[int], n: int, slot: int = 0) -> None:
    """Show a drafter the last n tokens of a text."""
    drafter.observe([EvaluatedTokens(slot, np.array(text, np.int32), states(text)[len(text) - n :])])


def ask(drafter: DraftMtp, text: Sequence[int], n_max: int = 100, p_min: float = 0.0, slot: int = 0) -> list[int]:
    (draft,) = drafter.draft([DraftRequest(slot, np.array(text, np.int32), n_max, p_min)])
    assert draft.dtype == np.int32
    tokens: list[int] = draft.tolist()
    return tokens


def test_draft_is_what_the_block_predicts(block: Block) -> None:
    drafter = block.drafter()
    show(drafter, TEXT[:-1], len(TEXT) - 1)
    assert ask(drafter, TEXT) == block.expected(TEXT)
    assert ask(drafter, TEXT) == block.expected(TEXT)  # asked twice


@pytest.mark.parametrize("steps", [[1] * 39, [16, 16, 7], [38, 1]])
def test_parts_of_a_text_make_no_difference(block: Block, steps: list[int]) -> None:
    drafter, end = block.drafter(), 0
    for n in steps:
        end += n
        show(drafter, TEXT[:end], n)
    assert ask(drafter, TEXT) == block.expected(TEXT)


def test_long_texts_are_read_at_once(block: Block) -> None:
    text = [*TEXT * 5, 1]
    drafter = block.drafter()
    show(drafter, text[:-1], len(text) - 1)
    assert block.backend._filled[0] == len(text) - 2
    assert len(text) > MAX_WAITING
    assert ask(drafter, text) == block.expected(text)


@pytest.mark.parametrize("n_right", range(5))
def test_hidden_states_of_the_model_replace_those_of_the_block(block: Block, n_right: int) -> None:
    drafter, text = block.drafter(), TEXT
    show(drafter, text[:-1], len(text) - 1)
    for _ in range(3):
        draft = ask(drafter, text)
        assert draft == block.expected(text)
        n_before, text = len(text), [*text, *draft[:n_right], 50]
        show(drafter, text[:-1], len(text) - n_before)
    assert ask(drafter, text) == block.expected(text)


def test_several_texts_are_drafted_in_the_same_batches(block: Block) -> None:
    drafter, texts = block.drafter(), [TEXT, TEXT[::-1], TEXT[5:20]]
    for slot, text in enumerate(texts):
        show(drafter, text[:-1], len(text) - 1, slot)
    requests = [DraftRequest(slot, np.array(text, np.int32), slot + 1) for slot, text in enumerate(texts)]
    drafts = [draft.tolist() for draft in drafter.draft(requests)]
    assert drafts == [block.expected(text, n) for n, text in enumerate(texts, start=1)]


def test_text_that_changed_is_cut(block: Block) -> None:
    drafter = block.drafter()
    show(drafter, TEXT[:-1], len(TEXT) - 1)
    other = [*TEXT[:20], *TEXT[:15]]
    show(drafter, other[:-1], len(other) - 1)
    assert ask(drafter, other) == block.expected(other)


def test_pairs_that_were_not_seen_are_left_out(block: Block) -> None:
    """The tokens that a cache had are not seen: the draft is that of a text without them."""
    drafter = block.drafter()
    show(drafter, TEXT[:-1], 19)
    assert ask(drafter, TEXT) == block.expected(TEXT, first=20)

    longer = [*TEXT[:25], 59, *TEXT]  # the next turn of a chat, of which 25 tokens are cached
    show(drafter, longer[:-1], len(longer) - 26)
    assert len(ask(drafter, longer)) == N_MAX
    assert drafter._texts[0].places.tolist() == [*range(21, 25), *range(26, len(longer))]


@pytest.mark.parametrize("n_unseen", [1, 5])
def test_without_the_last_hidden_state_nothing_is_guessed(block: Block, n_unseen: int) -> None:
    drafter = block.drafter()
    show(drafter, TEXT[:-n_unseen], len(TEXT) - n_unseen)
    assert bool(ask(drafter, TEXT)) == (n_unseen == 1)
    assert ask(drafter, TEXT, slot=1) == []


def test_start_of_a_text_is_taken_from_another_slot(block: Block) -> None:
    drafter = block.drafter()
    show(drafter, TEXT[:-1], len(TEXT) - 1)
    assert ask(drafter, TEXT) == block.expected(TEXT)
    other = [*TEXT[:30], *TEXT[::2]]
    show(drafter, other[:-1], len(other) - 31, slot=1)  # the model's cache has 30 tokens from the first slot
    ask(drafter, other, slot=1)
    assert drafter._texts[1].places.tolist() == [*range(1, 30), *range(31, len(other))]
    assert ask(drafter, TEXT) == block.expected(TEXT)


def test_improbable_tokens_end_a_draft(block: Block) -> None:
    drafter = block.drafter()
    show(drafter, TEXT[:-1], len(TEXT) - 1)
    n_tokens = [len(ask(drafter, TEXT, p_min=p)) for p in (0.0, 0.5, 0.99999)]
    assert n_tokens[0] == N_MAX
    assert n_tokens == sorted(n_tokens, reverse=True)
    assert n_tokens[2] < N_MAX


def test_drafts_end_with_the_context(block: Block) -> None:
    drafter, text = block.drafter(n_max=10), [*TEXT * 6, *TEXT[: N_CTX - 6 * len(TEXT)]]
    for n in (len(text), len(text) - 3):
        drafter = block.drafter(n_max=10)
        show(drafter, text[: n - 1], n - 1)
        assert ask(drafter, text[:n]) == block.expected(text[:n], N_CTX - n + 2)


def test_closing_closes_the_backend() -> None:
    class Backend:
        n_slots, n_vocab, closed = 1, 9, False

        def close(self) -> None:
            self.closed = True

    backend: Any = Backend()
    DraftMtp(backend, 9, 1).close()
    assert backend.closed
