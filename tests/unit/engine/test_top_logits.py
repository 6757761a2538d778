"""A backend that selects the most likely tokens is only asked for these if no request needs others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llamafw import Batch, Floats, GenerationError, GrammarSource, Ints
from llamafw.engine import BatchingEngine
from support.toy_model import N_VOCAB, ToyBackend, generate_answer, random_logits

Start = Callable[..., BatchingEngine]

TOP_K = {"samplers": ("top_k", "top_p", "temperature"), "options": {"top_k": 20, "top_p": 0.9, "temperature": 1.5}}


class SelectingToyBackend(ToyBackend):
    """A `ToyBackend` that records the arguments of `top_logits`."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.calls: list[tuple[int, int]] = []

    def top_logits(self, batch: Batch, n: int, n_vocab: int) -> tuple[Ints, Floats]:
        self.calls.append((n, n_vocab))
        rows = self.forward(batch)[:, :n_vocab]
        ids = np.argsort(-rows, axis=1, kind="stable")[:, :n].astype(np.int32)
        return ids, np.take_along_axis(rows, ids, 1)


class OddTokens:
    """A grammar of odd tokens."""

    ended = False

    def accept(self, token: int) -> bool:
        return token % 2 == 1

    def mask(self, logits: Floats) -> None:
        logits[::2] = -np.inf

    def copy(self) -> OddTokens:
        return self


@pytest.mark.parametrize(
    ("fields", "n"),
    [
        ({}, 1),  # greedy
        (TOP_K, 20),
        (TOP_K | {"n_probs": 3, "post_sampling_probs": True}, 20),
        (TOP_K | {"samplers": ("temperature", "top_k")}, None),  # the first sampler needs all
        (TOP_K | {"options": {"top_k": 100}}, None),  # a large part of the vocabulary
        ({"logit_bias": {5: 1.0}}, None),
        ({"ignore_eos": True}, None),
        ({"n_probs": 3}, None),
        ({"logprobs": True}, None),
        ({"prompt_logprobs": 2}, None),
        ({"grammar": GrammarSource("odd", "")}, None),
    ],
    ids=range(11),
)
async def test_most_likely_tokens_are_enough_for_some_requests(start: Start, fields: Any, n: int | None) -> None:
    fields = {"n_predict": 12, "seed": 4} | fields
    grammars = {"odd": lambda context: SimpleNamespace(compile=lambda source: OddTokens())}
    expected = await generate_answer(start(ToyBackend(random_logits), grammars=grammars), [1, 2, 3], **fields)
    backend = SelectingToyBackend(random_logits)
    answer = await generate_answer(start(backend, grammars=grammars), [1, 2, 3], **fields)
    assert answer.tokens == expected.tokens
    assert len(answer.ids) > 1
    assert backend.calls == ([] if n is None else [(n, N_VOCAB)] * len(backend.batches))


async def test_largest_number_of_a_batch_is_requested(start: Start) -> None:
    backend = SelectingToyBackend(random_logits, hold=True)
    engine = start(backend)
    first = asyncio.create_task(generate_answer(engine, [1, 2], n_predict=8, seed=1, **TOP_K))
    second = asyncio.create_task(generate_answer(engine, [3, 4], n_predict=8, seed=1))
    backend.allow_forward(1000)
    answers = await asyncio.gather(first, second)
    alone = start(ToyBackend(random_logits))
    assert answers[0].tokens == (await generate_answer(alone, [1, 2], n_predict=8, seed=1, **TOP_K)).tokens
    assert answers[1].tokens == (await generate_answer(alone, [3, 4], n_predict=8, seed=1)).tokens
    assert {n for n, _ in backend.calls} <= {1, 20}
    assert (20, N_VOCAB) in backend.calls


async def test_logits_that_are_no_numbers_end_the_request(start: Start) -> None:
    backend = SelectingToyBackend(lambda prefix: np.full(N_VOCAB, np.nan, np.float32))
    with pytest.raises(GenerationError, match="not a number"):
        await generate_answer(start(backend), [1, 2], n_predict=2)
    assert backend.calls
