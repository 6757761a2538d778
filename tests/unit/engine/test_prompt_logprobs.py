"""Log-probabilities of prompt tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llamafw import ContextFullError
from llamafw.engine import BatchingEngine
from support.toy_model import N_VOCAB, ToyBackend, ToyTokenizer, generate_answer, random_logits

Start = Callable[..., BatchingEngine]
TEXT = tuple(int(token) for token in np.random.default_rng(3).integers(0, N_VOCAB, 150))


def expected(i: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the log-probabilities of all tokens at position ``i``."""
    row = random_logits(TEXT[:i]).astype(np.float64)
    return np.asarray(row - row.max() - np.log(np.exp(row - row.max()).sum()))


@pytest.mark.parametrize("n_predict", [0, 2])
@pytest.mark.parametrize("n_batch", [16, 256])
async def test_prompt_logprobs_cover_every_token_but_the_first(start: Start, n_predict: int, n_batch: int) -> None:
    backend = ToyBackend(n_ctx=256, n_batch=n_batch)
    engine = start(backend, n_batch=n_batch, n_ubatch=n_batch)
    plain = await generate_answer(engine, TEXT, n_predict=2)
    backend.batches.clear()
    found = await generate_answer(engine, TEXT, n_predict=n_predict, prompt_logprobs=3)  # the whole prompt is cached
    reported = [token for delta in found.deltas for token in delta.prompt]
    assert [token.id for token in reported] == list(TEXT)
    assert (reported[0].logprob, reported[0].top) == (None, ())
    assert reported[0].piece == ToyTokenizer().piece(TEXT[0])
    for i, token in enumerate(reported[1:], 1):
        row = expected(i)
        assert token.logprob == pytest.approx(row[token.id], abs=1e-5)
        best = np.argsort(-row, kind="stable")[:3]
        assert [top.id for top in token.top] == best.tolist()
        np.testing.assert_allclose([top.logprob for top in token.top], row[best], atol=1e-5)
    assert found.ids == plain.ids[:n_predict]
    assert (found.finish.n_cached, found.finish.n_prompt, found.finish.stop_type) == (0, 150, "limit")
    assert max(len(batch.outputs) for batch in backend.batches) <= min(64, n_batch)
    assert sum(len(batch.outputs) for batch in backend.batches) == 149 + n_predict


async def test_single_prompt_token_has_no_logprob(start: Start) -> None:
    engine = start(ToyBackend())
    for n_predict in (0, 1):
        found = await generate_answer(engine, (5,), n_predict=n_predict, prompt_logprobs=1)
        (reported,) = [token for delta in found.deltas for token in delta.prompt]
        assert (reported.id, reported.logprob, len(found.ids)) == (5, None, n_predict)


async def test_prompt_logprobs_do_not_depend_on_other_requests(start: Start) -> None:
    engine = start(ToyBackend(n_slots=3, n_ctx=256, n_batch=32), n_ubatch=32)
    alone = await generate_answer(engine, TEXT, n_predict=3, prompt_logprobs=0)
    others = [asyncio.create_task(generate_answer(engine, TEXT[:n], n_predict=30)) for n in (40, 90)]
    beside = await generate_answer(engine, TEXT, n_predict=3, prompt_logprobs=0)
    await asyncio.gather(*others)
    assert [delta.prompt for delta in beside.deltas if delta.prompt]
    assert [token for delta in beside.deltas for token in delta.prompt] == [
        token for delta in alone.deltas for token in delta.prompt
    ]
    assert beside.ids == alone.ids


async def test_prompt_logprobs_never_truncate_the_prompt(start: Start) -> None:
    with pytest.raises(ContextFullError):
        await generate_answer(start(ToyBackend()), TEXT, prompt_logprobs=0, context_shift=True)


async def test_prompt_logprobs_are_not_reported_by_default(start: Start) -> None:
    found = await generate_answer(start(ToyBackend(n_ctx=256)), TEXT, n_predict=2, n_probs=2)
    assert [delta.prompt for delta in found.deltas] == [()] * len(found.deltas)
