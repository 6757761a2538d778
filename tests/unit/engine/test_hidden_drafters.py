"""What drafters that see hidden states are shown: those of the tokens that stay in the cache, of every kind of step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from llamafw import Batch, EvaluatedTokens, Floats
from llamafw.engine import BatchingEngine
from llamafw.engine.speculation import SpeculationOptions
from support.toy_drafters import KnowingDrafter
from support.toy_model import N_EMBD, ToyBackend, generate_answer
from support.toy_snapshots import RecurrentToyBackend, WindowedToyBackend

Start = Callable[..., BatchingEngine]
ALWAYS = SpeculationOptions(adaptive=False)
PROMPT = tuple(range(30))


def state_of(prefix: Sequence[int]) -> Floats:
    """Return the hidden state after a text."""
    return np.array([len(prefix), *prefix[-(N_EMBD - 1) :], *[0] * N_EMBD][:N_EMBD], np.float32)


class _Hidden:
    """Adds hidden states to a toy backend."""

    def forward_with_hidden(self: Any, batch: Batch) -> tuple[Floats, Floats]:
        logits = self.forward(batch)
        rows = [
            state_of(self.slots[slot][: position + 1])
            for slot, position in zip(batch.slots.tolist(), batch.positions.tolist(), strict=True)
        ]
        self.n_hidden = getattr(self, "n_hidden", 0) + 1
        return logits, np.array(rows)


class Plain(_Hidden, ToyBackend):
    pass


class Recurrent(_Hidden, RecurrentToyBackend):
    pass


class Windowed(_Hidden, WindowedToyBackend):
    pass


KINDS: dict[str, type[Any]] = {"plain": Plain, "recurrent": Recurrent, "windowed": Windowed}


class WatchingDrafter(KnowingDrafter):
    """Checks the hidden states that it is shown."""

    def __init__(self, texts: Sequence[Sequence[int]], **options: Any) -> None:
        super().__init__(texts, **options)
        self.seen: dict[int, list[int]] = {}  # by slot
        self.n_shown = 0

    def observe(self, states: Sequence[EvaluatedTokens]) -> None:
        assert len({one.slot for one in states}) == len(states)
        for one in states:
            text, n = one.tokens.tolist(), len(one.hidden)
            assert 0 < n <= len(text)
            for end in range(len(text) - n, len(text)):
                np.testing.assert_array_equal(one.hidden[end - len(text)], state_of(text[: end + 1]))
            self.seen[one.slot], self.n_shown = text, self.n_shown + n


@pytest.mark.parametrize("wrong_every", [0, 4, 1], ids=["right", "some wrong", "all wrong"])
@pytest.mark.parametrize("kind", KINDS)
async def test_hidden_states_belong_to_the_tokens_that_stay(start: Start, kind: str, wrong_every: int) -> None:
    fields: dict[str, Any] = {"n_predict": 25, "ignore_eos": True}
    expected = await generate_answer(start(KINDS[kind]()), PROMPT, **fields)
    text = [*PROMPT, *expected.finish.tokens]
    drafter, backend = WatchingDrafter([text], wrong_every=wrong_every), KINDS[kind](n_slots=1)
    engine = start(backend, drafters={"watching": drafter}, speculation=ALWAYS)
    answer = await generate_answer(engine, PROMPT, **fields)
    assert answer.tokens == expected.tokens
    assert drafter.seen[0] == text[:-1]  # the last token is not evaluated
    if kind == "plain":
        assert drafter.n_shown == len(text) - 1
    assert drafter.n_shown >= len(text) - 1

    other = [*text[:20], 99, 98, 97]
    await generate_answer(engine, other, **fields)
    assert drafter.seen[0][:23] == other


async def test_several_slots_are_shown_at_once(start: Start) -> None:
    prompts = [tuple(range(i, i + 9)) for i in range(4)]
    drafter = WatchingDrafter([])
    engine = start(Plain(n_slots=4), drafters={"watching": drafter}, speculation=ALWAYS)
    answers = await asyncio.gather(*(generate_answer(engine, one, n_predict=9, ignore_eos=True) for one in prompts))
    texts = {(*prompt, *answer.finish.tokens[:-1]) for prompt, answer in zip(prompts, answers, strict=True)}
    assert {tuple(text) for text in drafter.seen.values()} == texts


async def test_requests_without_drafts_are_not_shown(start: Start) -> None:
    drafter, backend = WatchingDrafter([]), Plain()
    engine = start(backend, drafters={"watching": drafter}, speculation=ALWAYS)
    await generate_answer(engine, PROMPT, n_predict=5, draft_n_max=0)
    assert (drafter.seen, getattr(backend, "n_hidden", 0)) == ({}, 0)


async def test_other_drafters_need_no_hidden_states(start: Start) -> None:
    backend = Plain()
    engine = start(backend, drafters={"knowing": KnowingDrafter([])}, speculation=ALWAYS)
    await generate_answer(engine, PROMPT, n_predict=5)
    assert not hasattr(backend, "n_hidden")


async def test_drafter_that_fails_while_it_observes_is_not_used_any_more(start: Start, caplog: Any) -> None:
    class Broken(WatchingDrafter):
        def observe(self, states: Sequence[EvaluatedTokens]) -> None:
            raise RuntimeError("no")

    expected = await generate_answer(start(Plain()), PROMPT, n_predict=10, ignore_eos=True)
    drafter = Broken([])
    engine = start(Plain(), drafters={"broken": drafter}, speculation=ALWAYS)
    answer = await generate_answer(engine, PROMPT, n_predict=10, ignore_eos=True)
    assert answer.tokens == expected.tokens
    assert drafter.closed
    assert "the drafter broken failed" in caplog.text
