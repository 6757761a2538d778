"""Requests that are interrupted by more urgent ones: what they answer is the same as without."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from llamafw import GrammarSource, Sender, Timings, Unavailable
from llamafw.engine import BatchingEngine
from llamafw.engine.request_times import RequestTimes
from llamafw.engine.speculation import SpeculationOptions
from llamafw_plugins.grammars.compiler import LlguidanceCompiler
from support.toy_drafters import KnowingDrafter
from support.toy_model import Answer, ToyBackend, generate_answer, random_logits
from support.toy_snapshots import RecurrentToyBackend, WindowedToyBackend

Start = Callable[..., BatchingEngine]
KINDS: dict[str, type[ToyBackend]] = {
    "plain": ToyBackend,
    "recurrent": RecurrentToyBackend,
    "windowed": WindowedToyBackend,
}
GRAMMARS: dict[str, Any] = {"gbnf": partial(LlguidanceCompiler, "gbnf")}
PROMPT = tuple(range(100, 180))
URGENT = tuple(range(10, 40))
LOW = Sender(priority=5)
ROOM: dict[str, Any] = {"n_ctx": 256, "n_slots": 1}
SAMPLED: dict[str, Any] = {"samplers": ("penalties", "temperature"), "options": {"temperature": 1.5}, "seed": 7}
FIELDS: dict[str, dict[str, Any]] = {
    "greedy": {"seed": 1},
    "seeded": {**SAMPLED, "logprobs": True, "n_probs": 3},
    "grammar": {**SAMPLED, "grammar": GrammarSource("gbnf", 'root ::= ("ab" | "cd" | "efg")+')},
    "stop": {**SAMPLED, "stop": ("zzzz", "qqqq")},
    "not cached": {"seed": 1, "cache_prompt": False},
}


def observed(answer: Answer) -> tuple[Any, ...]:
    """Return what a client sees of an answer, without times."""
    finish = answer.finish
    counts = (finish.stop_type, finish.n_prompt, finish.n_predicted, finish.truncated, finish.seed)
    return answer.text, answer.tokens, counts


async def interrupt(
    engine: BatchingEngine,
    backend: ToyBackend,
    n_steps: int,
    n_times: int = 1,
    prompt: tuple[int, ...] = PROMPT,
    **fields: Any,
) -> Answer:
    """Return the answer of a request that more urgent ones interrupt after some steps, and later again."""
    low = asyncio.create_task(generate_answer(engine, prompt, sender=LOW, **fields))
    await backend.wait_for_forward()
    urgent = []
    for _ in range(n_times):
        for _ in range(n_steps):
            backend.allow_forward()
            await backend.wait_for_forward()
        urgent.append(asyncio.create_task(generate_answer(engine, URGENT, n_predict=2, ignore_eos=True)))
        await asyncio.sleep(0)
    backend.allow_forward(10_000)
    answer = await low
    assert {len(other.ids) for other in await asyncio.gather(*urgent)} == {2}
    return answer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("prompt_cache", [0, 2**20], ids=["evaluated again", "from the prompt cache"])
async def test_answer_is_the_same_after_an_interruption(
    start: Start, kind: str, fields: str, prompt_cache: int
) -> None:
    request = {"n_predict": 24, "ignore_eos": True, **FIELDS[fields]}
    expected = await generate_answer(start(KINDS[kind](random_logits, **ROOM), grammars=GRAMMARS), PROMPT, **request)
    for n_steps in (1, 2, 3, 6, 20):  # the prompt takes three steps
        backend = KINDS[kind](random_logits, hold=True, **ROOM)
        engine = start(backend, prompt_cache=prompt_cache, grammars=GRAMMARS)
        answer = await interrupt(engine, backend, n_steps, **request)
        assert observed(answer) == observed(expected)
        assert engine.stats().by_priority[5].preemptions == 1


async def test_answer_is_the_same_after_many_interruptions(start: Start) -> None:
    request = {"n_predict": 40, "ignore_eos": True, **FIELDS["seeded"]}
    expected = await generate_answer(start(ToyBackend(random_logits, **ROOM)), PROMPT, **request)
    backend = ToyBackend(random_logits, hold=True, **ROOM)
    engine = start(backend, prompt_cache=2**20)
    answer = await interrupt(engine, backend, 7, n_times=4, **request)
    assert observed(answer) == observed(expected)
    assert engine.stats().by_priority[5].preemptions >= 3


async def test_nothing_is_evaluated_again_with_a_prompt_cache(start: Start) -> None:
    backend = ToyBackend(random_logits, hold=True, **ROOM)
    await interrupt(start(backend, prompt_cache=2**20), backend, 10, n_predict=24, ignore_eos=True)
    assert backend.n_evaluated == len(PROMPT) + 23 + len(URGENT) + 1


async def test_answer_with_a_shifted_context_is_the_same_after_an_interruption(start: Start) -> None:
    request: dict[str, Any] = {"n_predict": 60, "ignore_eos": True, "context_shift": True, **SAMPLED}
    room: dict[str, Any] = {"n_ctx": 48, "n_slots": 1}
    prompt = PROMPT[:30]
    expected = await generate_answer(start(ToyBackend(random_logits, **room)), prompt, **request)
    for n_steps in (10, 25, 45):  # the first shift is after about 18
        backend = ToyBackend(random_logits, hold=True, **room)
        engine = start(backend, prompt_cache=2**20)
        answer = await interrupt(engine, backend, n_steps, prompt=prompt, **request)
        assert observed(answer) == observed(expected)
        assert engine.stats().by_priority[5].preemptions == 1
        assert backend.shifts
        if n_steps > 18:  # the state with moved parts is restored, not evaluated
            assert backend.n_evaluated == len(prompt) + 59 + len(URGENT) + 1


async def test_prompt_logprobs_are_reported_once(start: Start) -> None:
    request: dict[str, Any] = {"n_predict": 3, "ignore_eos": True, "prompt_logprobs": 2, "seed": 1}
    backend = ToyBackend(random_logits, hold=True, **ROOM)
    answer = await interrupt(start(backend, prompt_cache=2**20), backend, 2, **request)
    expected = await generate_answer(start(ToyBackend(random_logits, **ROOM)), PROMPT, **request)

    def prompt_of(answer: Answer) -> list[Any]:
        return [token for delta in answer.deltas for token in delta.prompt]

    assert [token.id for token in prompt_of(answer)] == list(PROMPT)
    assert prompt_of(answer) == prompt_of(expected)
    assert observed(answer) == observed(expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adaptive", [False, True])
async def test_drafts_continue_after_an_interruption(start: Start, kind: str, adaptive: bool) -> None:
    request: dict[str, Any] = {"n_predict": 40, "ignore_eos": True, **SAMPLED}
    expected = await generate_answer(start(KINDS[kind](random_logits, **ROOM)), PROMPT, **request)
    for n_steps in (4, 5, 7):
        backend = KINDS[kind](random_logits, hold=True, **ROOM)
        drafter = KnowingDrafter([[*PROMPT, *expected.ids]], wrong_every=4)
        options = SpeculationOptions(adaptive=adaptive)
        engine = start(backend, prompt_cache=2**20, drafters={"knowing": drafter}, speculation=options)
        answer = await interrupt(engine, backend, n_steps, **request)
        assert observed(answer) == observed(expected)
        await engine.erase_slot(0)  # after the last step of the request
        tokens_of_finished = [tokens for _, tokens in drafter.finished]
        assert tokens_of_finished.count([]) == 1  # when it was interrupted
        assert expected.ids in tokens_of_finished


async def test_requests_of_the_same_priority_are_not_interrupted(start: Start) -> None:
    backend = ToyBackend(random_logits, hold=True, **ROOM)
    engine = start(backend)
    running = asyncio.create_task(generate_answer(engine, PROMPT, n_predict=9, ignore_eos=True))
    await backend.wait_for_forward()
    others = [
        asyncio.create_task(generate_answer(engine, URGENT, n_predict=1, sender=Sender(priority)))
        for priority in (0, 3)
    ]
    await asyncio.sleep(0)
    backend.allow_forward(100)
    await asyncio.gather(running, *others)
    assert sum(of.preemptions for of in engine.stats().by_priority.values()) == 0


async def test_the_least_urgent_request_that_started_last_is_interrupted(start: Start) -> None:
    backend = ToyBackend(random_logits, hold=True, n_slots=4, n_ctx=64)
    engine = start(backend, n_ubatch=32)
    running: list[asyncio.Task[Answer]] = []
    for i, priority in enumerate((3, 7, 7, 5)):
        fields: dict[str, Any] = {"n_predict": 20, "ignore_eos": True, "sender": Sender(priority), "id_slot": i}
        running.append(asyncio.create_task(generate_answer(engine, (i,), **fields)))
        await asyncio.sleep(0)  # it must have arrived before the next step
        if i:
            backend.allow_forward()
        await backend.wait_for_forward()
    urgent = asyncio.create_task(generate_answer(engine, URGENT, n_predict=1))
    await asyncio.sleep(0)
    backend.allow_forward(1000)
    answer = await urgent
    assert answer.finish.id_slot == 2
    await asyncio.gather(*running)


async def test_a_request_for_a_slot_interrupts_only_the_one_in_it(start: Start) -> None:
    backend = ToyBackend(random_logits, hold=True, n_slots=2, n_ctx=64)
    engine = start(backend)
    running = [
        asyncio.create_task(
            generate_answer(engine, (i,), n_predict=20, ignore_eos=True, id_slot=i, sender=Sender(priority))
        )
        for i, priority in enumerate((5, 9))
    ]
    await backend.wait_for_forward()
    urgent = asyncio.create_task(generate_answer(engine, URGENT, n_predict=1, id_slot=0))
    await asyncio.sleep(0)
    backend.allow_forward(1000)
    assert (await urgent).finish.id_slot == 0
    assert [answer.finish.id_slot for answer in await asyncio.gather(*running)] == [0, 1]
    stats = engine.stats().by_priority
    assert (stats[5].preemptions, stats[9].preemptions) == (1, 0)


async def test_cancelled_requests_do_not_continue(start: Start) -> None:
    backend = ToyBackend(random_logits, hold=True, **ROOM)
    engine = start(backend)
    low = asyncio.create_task(generate_answer(engine, PROMPT, n_predict=50, ignore_eos=True, sender=LOW))
    await backend.wait_for_forward()
    urgent = asyncio.create_task(generate_answer(engine, URGENT, n_predict=20, ignore_eos=True))
    await asyncio.sleep(0)
    backend.allow_forward()
    await backend.wait_for_forward()  # the urgent request's first step
    low.cancel()
    await asyncio.gather(low, return_exceptions=True)
    backend.allow_forward(100)
    await urgent
    assert (await generate_answer(engine, (1,), n_predict=1)).finish.n_predicted == 1
    n_urgent = len(URGENT) + 19
    assert backend.n_evaluated == 32 + n_urgent + 1  # of the prompt, one part
    assert engine.stats().requests_deferred == 0


async def test_waiting_after_an_interruption_does_not_time_out(start: Start) -> None:
    backend = ToyBackend(random_logits, hold=True, **ROOM)
    engine = start(backend, timeout=1e-6)
    answer = await interrupt(engine, backend, 3, n_predict=8, ignore_eos=True)
    assert answer.finish.n_predicted == 8


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "not exact"])
async def test_requests_survive_a_failure_to_save_their_cache(start: Start, exact: bool) -> None:
    class NotSaving(ToyBackend):
        n_tries = 0

        def save(self, slot: int, n: int) -> Any:
            self.n_tries += 1
            raise MemoryError

    backend = NotSaving(random_logits, hold=True, **ROOM)
    backend.exact = exact
    engine = start(backend, prompt_cache=2**20)
    request: dict[str, Any] = {"n_predict": 8, "ignore_eos": True, "seed": 1}
    answer = await interrupt(engine, backend, 4, **request)
    expected = await generate_answer(start(ToyBackend(random_logits, **ROOM)), PROMPT, **request)
    assert observed(answer) == observed(expected)
    assert engine.stats().by_priority[5].preemptions == exact
    if not exact:
        assert backend.n_tries == 2  # once for the interruption, not before each token; then for the prompt cache


async def test_request_fails_if_its_cache_cannot_be_restored(start: Start) -> None:
    class NotRestoring(ToyBackend):
        exact = False

        def restore(self, slot: int, n: int, state: Any) -> None:
            raise Unavailable("there is no memory")

    backend = NotRestoring(random_logits, hold=True, **ROOM)
    engine = start(backend, prompt_cache=2**20)
    with pytest.raises(Unavailable, match="there is no memory"):
        await interrupt(engine, backend, 4, n_predict=8, ignore_eos=True)
    assert (await generate_answer(engine, (1,), n_predict=1)).finish.n_predicted == 1
    stats = engine.stats()  # what it did before is counted
    assert stats.prompt_tokens == len(PROMPT) + len(URGENT) + 1
    assert stats.prompt_seconds > 0


async def test_states_are_kept_for_backends_that_are_not_exact(start: Start) -> None:
    class Inexact(ToyBackend):
        exact = False

    backend = Inexact(random_logits, hold=True, **ROOM)
    engine = start(backend, prompt_cache=2**20)
    await interrupt(engine, backend, 10, n_predict=24, ignore_eos=True)
    assert backend.n_evaluated == len(PROMPT) + 23 + len(URGENT) + 1
    assert engine.stats().by_priority[5].preemptions == 1


def test_timings_count_the_interruption_as_time_in_the_queue() -> None:
    now = [0.0]
    times = RequestTimes(clock=lambda: now[0])

    def after(seconds: float, event: Callable[[], None]) -> Timings:
        now[0] += seconds
        event()
        return times.timings({})

    after(1, times.start)
    after(2, times.pause)
    assert after(0.5, lambda: None) == Timings(queue_ms=1500, prompt_ms=2000)  # it may end now
    assert after(0.5, times.resume) == Timings(queue_ms=2000, prompt_ms=2000)
    after(1, times.draw)
    assert after(4, times.draw) == Timings(queue_ms=2000, prompt_ms=3000, predicted_ms=4000)
    after(1, times.pause)
    assert after(16, lambda: None) == Timings(queue_ms=18_000, prompt_ms=3000, predicted_ms=4000)
    assert after(0, times.resume) == Timings(queue_ms=18_000, prompt_ms=3000, predicted_ms=4000)
    assert after(1, times.draw) == Timings(queue_ms=18_000, prompt_ms=3000, predicted_ms=6000)
