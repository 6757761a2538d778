"""Context shift and prompt truncation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafw import ContextFullError, Floats, GenerateRequest
from llamafw.engine import BatchingEngine
from llamafw.engine.context_shift import n_discarded, n_kept, truncated
from support.toy_model import EOS, ToyBackend, alphabet_logits, generate_answer

Start = Callable[..., BatchingEngine]


@pytest.mark.inventory("E-068")
@pytest.mark.parametrize(("n_prompt", "n_ctx", "n_keep", "left"), [(400, 256, 0, 144), (400, 256, 100, 244)])
def test_truncation_removes_the_middle_of_the_prompt(n_prompt: int, n_ctx: int, n_keep: int, left: int) -> None:
    prompt = np.arange(n_prompt, dtype=np.int32)
    short = truncated(prompt, n_keep, n_ctx)
    assert len(short) == left
    assert short[:n_keep].tolist() == prompt[:n_keep].tolist()
    assert short[n_keep:].tolist() == prompt[n_prompt - (left - n_keep) :].tolist()


@given(n_prompt=st.integers(1, 400), n_ctx=st.integers(5, 100), n_keep=st.integers(-1, 500), bos=st.booleans())
def test_kept_tokens_leave_room(n_prompt: int, n_ctx: int, n_keep: int, bos: bool) -> None:
    n = n_kept(n_keep, n_prompt, n_ctx, bos=bos)
    assert 0 <= n <= n_ctx - 4
    if n_prompt >= n_ctx:
        assert n <= len(truncated(np.zeros(n_prompt, np.int32), n, n_ctx)) < n_ctx
    assert 0 < n_discarded(n_ctx, n, 0) <= n_ctx - n
    assert 0 < n_discarded(n_ctx, n, 3) <= 3


@pytest.mark.inventory("K-05", "K-06", "F-03", "D-03", "E-019", "C-096")
@pytest.mark.parametrize(("n_keep", "n_discard", "n_gone"), [(0, 0, 8), (2, 0, 7), (2, 3, 3)])
async def test_generation_continues_after_a_context_shift(
    start: Start, n_keep: int, n_discard: int, n_gone: int
) -> None:
    backend = ToyBackend(alphabet_logits, n_ctx=16, n_slots=1)
    got = await generate_answer(
        start(backend), (1, 2, 3), n_predict=16, context_shift=True, n_keep=n_keep, n_discard=n_discard
    )
    assert (got.finish.n_predicted, got.finish.stop_type, got.finish.truncated) == (16, "limit", True)
    assert backend.shifts[0] == (0, n_keep, n_gone)
    assert backend.slots[0][:n_keep] == [1, 2, 3][:n_keep]


async def test_generation_without_limit_continues_until_cancelled(start: Start) -> None:
    backend = ToyBackend(alphabet_logits, n_ctx=16, n_slots=1)
    request = GenerateRequest((1,), n_predict=-1, context_shift=True, ignore_eos=True)  # otherwise EOS could be drawn
    stream = start(backend).generate(request)
    n = 0
    async for _ in stream:
        n += 1
        if n == 100:
            await stream.aclose()
            break
    assert len(backend.shifts) > 5


@pytest.mark.inventory("F-02", "D-02", "C-017")
async def test_n_predict_minus_2_ends_at_the_full_context(start: Start) -> None:
    got = await generate_answer(
        start(ToyBackend(alphabet_logits, n_ctx=16)), (1, 2, 3), n_predict=-2, context_shift=True
    )
    assert (got.finish.n_predicted, got.finish.stop_type, got.finish.truncated) == (13, "limit", True)


@pytest.mark.inventory("E-069", "C-096")
@pytest.mark.parametrize("context_shift", [False, True])
async def test_prompts_that_do_not_fit_are_refused(start: Start, context_shift: bool) -> None:
    with pytest.raises(ContextFullError) as caught:
        await generate_answer(start(ToyBackend(n_ctx=16)), range(16), context_shift=context_shift)
    assert caught.value.extra == {"n_prompt_tokens": 16, "n_ctx": 16}


@pytest.mark.inventory("E-068", "E-055")
async def test_truncate_prompt_cuts_the_middle(start: Start) -> None:
    backend = ToyBackend(alphabet_logits, n_ctx=16, n_slots=1)
    got = await generate_answer(start(backend), range(40), n_predict=1, truncate_prompt=True, n_keep=2)
    assert backend.batches[0].tokens.tolist() == [0, 1, *range(30, 40)]
    assert got.finish.truncated
    assert got.finish.n_prompt == len(backend.slots[0])


@pytest.mark.inventory("K-10", "F-18")
async def test_shifted_positions_are_not_reused(start: Start) -> None:
    backend = ToyBackend(alphabet_logits, n_ctx=16, n_slots=1)
    engine = start(backend)
    await generate_answer(engine, (1, 2, 3), n_predict=20, context_shift=True, n_keep=2)
    held = list(backend.slots[0])
    again = await generate_answer(engine, held[:8], n_predict=1)
    assert again.finish.n_cached == 2  # positions after the shift differ from a fresh evaluation
    fresh = await generate_answer(engine, (*held[:6], 9), n_predict=1)
    assert fresh.finish.n_cached == 6  # all of these were evaluated after the shift


async def test_generation_ends_if_no_token_can_be_dropped(start: Start) -> None:
    got = await generate_answer(
        start(ToyBackend(alphabet_logits, n_ctx=1, n_slots=1)),
        (1,),
        n_predict=9,
        context_shift=True,
        truncate_prompt=True,
    )
    assert (got.finish.n_predicted, got.finish.stop_type, got.finish.truncated) == (1, "limit", True)


@pytest.mark.inventory("E-036")
async def test_eos_ends_a_shifted_generation(start: Start) -> None:
    def scores(prefix: Sequence[int]) -> Floats:
        row = alphabet_logits([0] * len(prefix))
        row[EOS] = 20 if len(prefix) == 12 else -9
        return row

    got = await generate_answer(
        start(ToyBackend(scores, n_ctx=16, n_slots=1)), (1, 2, 3), n_predict=-1, context_shift=True
    )
    assert (got.finish.stop_type, got.finish.truncated) == ("eos", False)
