"""What is evaluated again when a cache is cut: on a plain, a recurrent and a windowed model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafw import Batch, Floats, GenerateRequest, GenerationError
from llamafw.engine import BatchingEngine, EngineOptions
from llamafw.engine.slots import common_prefix
from support.toy_model import EOS, ToyBackend, ToyTokenizer, generate_answer, random_logits
from support.toy_snapshots import RecurrentToyBackend, SnapshotToyBackend, WindowedToyBackend

Start = Callable[..., BatchingEngine]
KINDS = {"plain": ToyBackend, "recurrent": RecurrentToyBackend, "windowed": WindowedToyBackend}
HEADER = (251, 252, 253)  # what a chat template puts before each answer
THINK = (254, 255)  # what it adds after the header of the answer to come, but not of earlier ones
SPARE = 16  # snapshots are at least this far apart, so that many tokens may be evaluated again
MANY: dict[str, Any] = {"n_ctx": 4096, "n_batch": 512}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the backend."""
    return str(request.param)


def text(seed: int, n: int) -> tuple[int, ...]:
    """Return random tokens of plain text."""
    return tuple(np.random.default_rng(seed).integers(0, 250, n).tolist())


class Chat:
    """A chat whose template renders earlier answers without their first tokens, the model's thoughts.

    It counts the tokens that the previous turn's prompt had, and those of them that were evaluated again.
    """

    def __init__(self, engine: BatchingEngine, seed: int, **fields: Any) -> None:
        self.engine, self._fields = engine, {"n_answer_start": len(THINK)} | fields
        self._history = text(seed, 200)
        self._seed, self._n_turns = seed, 0
        self._previous: tuple[int, ...] = ()
        self.n_history = self.n_again = 0

    async def turn(self, n_tokens: int = 40, **fields: Any) -> list[int]:
        """Ask a question of ``n_tokens``; return the tokens of the answer."""
        self._n_turns += 1
        question = text(1000 * self._seed + self._n_turns, n_tokens)
        prompt = (*self._history, *question, *HEADER, *THINK)
        answer = await generate_answer(self.engine, prompt, n_predict=30, ignore_eos=True, **self._fields | fields)

        n_common = common_prefix(np.array(self._previous, np.int32), np.array(prompt, np.int32))
        self.n_history += n_common
        self.n_again += max(n_common - answer.finish.n_cached, 0)
        self._previous = prompt
        self._history = (*self._history, *question, *HEADER, *answer.ids[20:])
        return answer.ids


async def fresh_answer(start: Start, prompt: Sequence[int], **fields: Any) -> list[int]:
    """Return the answer of a new engine."""
    return (await generate_answer(start(ToyBackend(random_logits, **MANY)), prompt, **fields)).ids


# --- chats


@pytest.mark.inventory("V-03", "K-03")
async def test_ten_turns_evaluate_almost_nothing_again(start: Start, kind: str) -> None:
    backend = KINDS[kind](random_logits, n_slots=1, **MANY)
    chat = Chat(start(backend), seed=1)
    for _ in range(10):
        await chat.turn()
    assert chat.n_history > 3000
    assert chat.n_again <= 0.01 * chat.n_history


async def test_ten_turns_of_raw_text_evaluate_little_again(start: Start, kind: str) -> None:
    """Without `n_answer_start`, each turn evaluates a few tokens before the end of the previous prompt again."""
    backend = KINDS[kind](random_logits, n_slots=1, **MANY)
    chat = Chat(start(backend), seed=1, n_answer_start=None)
    for _ in range(10):
        await chat.turn()
    assert chat.n_again <= 10 * SPARE


async def test_short_turns_evaluate_few_tokens_again(start: Start, kind: str) -> None:
    backend = KINDS[kind](random_logits, n_slots=1, **MANY)
    chat = Chat(start(backend), seed=1)
    for _ in range(10):
        await chat.turn(2)
    assert chat.n_again <= 10 * SPARE


async def test_two_chats_in_one_slot_evaluate_almost_nothing_again(start: Start, kind: str) -> None:
    """The prompt cache keeps the snapshots, too."""
    engine = start(KINDS[kind](random_logits, n_slots=1, **MANY), prompt_cache=None)
    chats = [Chat(engine, seed) for seed in (1, 2)]
    for _ in range(10):
        for chat in chats:
            await chat.turn()
    for chat in chats:
        assert chat.n_history > 3000
        assert chat.n_again <= 0.01 * chat.n_history


async def test_chat_continues_after_saving_and_restoring_its_slot(start: Start, kind: str, tmp_path: Path) -> None:
    first, second = (start(KINDS[kind](random_logits, n_slots=2, **MANY)) for _ in range(2))
    chat = Chat(first, seed=1)
    for _ in range(3):
        await chat.turn()
    (used,) = [slot.id for slot in first.slots() if slot.n_tokens]
    n_saved, _ = await first.save_slot(used, tmp_path / "slot")
    assert (await second.restore_slot(1, tmp_path / "slot"))[0] == n_saved
    chat.engine, chat.n_history, chat.n_again = second, 0, 0
    await chat.turn()
    assert chat.n_history > 300
    assert chat.n_again == 0


async def test_chats_with_one_system_prompt_share_it(start: Start, kind: str) -> None:
    """The first chat that diverges from another one evaluates the system prompt again, but later ones do not."""
    engine = start(KINDS[kind](random_logits, n_slots=1, **MANY))
    system = text(7, 300)
    n_cached = [(await ask(engine, (*system, *text(seed, 50)))).finish.n_cached for seed in range(4)]
    assert n_cached[0] == 0
    assert n_cached[2:] == [300, 300]


@pytest.mark.parametrize("n_question", [3, 60])
async def test_chats_that_arrive_together_evaluate_their_system_prompt_once(
    start: Start, kind: str, n_question: int
) -> None:
    backend = KINDS[kind](random_logits, hold=True, n_slots=8, **MANY)
    engine = start(backend, n_batch=64, n_ubatch=64, prompt_cache=None)
    system = text(7, 600)
    running = [asyncio.create_task(ask(engine, (*system, 250, *text(seed, n_question)))) for seed in range(8)]
    await backend.wait_for_forward()
    await asyncio.sleep(0)  # each task passes its request to the engine before it waits
    backend.allow_forward(1000)
    n_cached = sorted([(await one).finish.n_cached for one in running])
    assert n_cached[0] == 0
    assert n_cached[1] >= 600 - SPARE


async def test_system_prompt_of_another_slot_is_evaluated_again_once(start: Start, kind: str) -> None:
    engine = start(KINDS[kind](random_logits, n_slots=4, **MANY), prompt_cache=None)
    system = text(7, 300)
    n_cached = [(await ask(engine, (*system, *text(seed, 50)), id_slot=seed)).finish.n_cached for seed in range(4)]
    assert n_cached == ([0, 300, 300, 300] if kind == "plain" else [0, 0, 300, 300])


async def ask(engine: BatchingEngine, prompt: Sequence[int], **fields: Any) -> Any:
    """Return a short answer."""
    return await generate_answer(engine, prompt, **{"n_predict": 5, "ignore_eos": True} | fields)


# --- other requests that go back


@pytest.mark.inventory("K-03")
async def test_regenerating_evaluates_the_end_of_the_prompt_only(start: Start, kind: str) -> None:
    engine = start(KINDS[kind](random_logits, n_slots=1, **MANY))
    prompt = text(1, 500)
    answers = [await ask(engine, prompt, n_answer_start=5) for _ in range(3)]
    assert [answer.finish.n_cached for answer in answers] == [0, *([499 if kind == "plain" else 495] * 2)]
    assert answers[0].ids == answers[1].ids == answers[2].ids


async def test_editing_an_early_message_goes_back_to_a_snapshot_before_it(start: Start, kind: str) -> None:
    backend = KINDS[kind](random_logits, n_slots=1, **MANY)
    engine = start(backend)
    prompt = list(text(1, 100))
    for turn in range(1, 6):  # each turn leaves a snapshot
        prompt += text(turn, 100)
        await ask(engine, prompt)
    edited = (*prompt[:350], 9, *prompt[351:])
    answer = await ask(engine, edited)
    assert answer.finish.n_cached == {"plain": 350, "recurrent": 288, "windowed": 288}[kind]
    assert answer.ids == await fresh_answer(start, edited, n_predict=5, ignore_eos=True)


@pytest.mark.inventory("K-04", "E-042")
async def test_cache_prompt_false_uses_no_snapshot(start: Start, kind: str) -> None:
    engine = start(KINDS[kind](random_logits, n_slots=1, **MANY))
    first = await ask(engine, text(1, 100))
    again = await ask(engine, text(1, 100), cache_prompt=False)
    assert (again.finish.n_cached, again.ids) == (0, first.ids)


async def test_prompt_that_continues_the_answer_evaluates_nothing_again(start: Start, kind: str) -> None:
    engine = start(KINDS[kind](random_logits, n_slots=1, **MANY))
    first = await ask(engine, text(1, 100))
    assert (await ask(engine, (*text(1, 100), *first.ids, 7))).finish.n_cached == 104


async def test_answer_that_a_stop_string_ended_is_continued(start: Start, kind: str) -> None:
    """The tokens of the stop string are cached, but the next prompt does not have them."""

    def scores(prefix: Sequence[int]) -> Floats:
        row = random_logits(prefix)
        row[[ord("a"), ord("#")]] = 40, 60 if len(prefix) in (130, 131) else -40
        return row

    engine = start(KINDS[kind](scores, n_slots=1, **MANY))
    first = await ask(engine, text(1, 100), n_predict=99, stop=("##",))
    assert (first.text, first.finish.stop_type) == ("a" * 30, "word")
    again = await ask(engine, (*text(1, 100), *[ord("a")] * 30, 7, 8))
    assert again.finish.n_cached == {"plain": 130, "recurrent": 88, "windowed": 130}[kind]


async def test_disconnect_during_prompt_evaluation_keeps_the_cache(start: Start, kind: str) -> None:
    backend = KINDS[kind](random_logits, n_slots=1, n_ctx=4096, n_batch=30, hold=True)
    engine = start(backend)
    prompt = text(1, 400)
    task = asyncio.create_task(ask(engine, prompt))
    backend.allow_forward(3)
    for _ in range(4):
        await backend.wait_for_forward()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    backend.allow_forward(100)
    assert (await ask(engine, prompt)).finish.n_cached == 120


async def test_long_prompt_can_be_changed_anywhere(start: Start) -> None:
    """Snapshots are taken in regular distances, so at most 2048 tokens are evaluated again."""
    engine = start(RecurrentToyBackend(random_logits, n_slots=1, n_ctx=9000, n_batch=512))
    prompt = text(1, 8000)
    await ask(engine, prompt)
    assert (await ask(engine, (*prompt[:3500], 9))).finish.n_cached == 2048


async def test_prefix_is_copied_from_a_slot_that_has_a_snapshot_there(start: Start, kind: str) -> None:
    engine = start(KINDS[kind](random_logits, n_slots=2, **MANY), prompt_cache=None)
    prompt = text(1, 300)
    first = await ask(engine, prompt, id_slot=0)
    other = await ask(engine, prompt, id_slot=1)
    assert (other.finish.id_slot, other.ids) == (1, first.ids)
    assert other.finish.n_cached == (299 if kind == "plain" else 288)


async def test_slot_with_the_better_snapshot_is_chosen(start: Start) -> None:
    engine = start(RecurrentToyBackend(random_logits, n_slots=2, **MANY))
    prompt = text(1, 300)
    await ask(engine, prompt[:200], id_slot=1)  # a snapshot at 188
    await ask(engine, prompt, id_slot=0, n_answer_start=150)  # the same prefix, but a snapshot at 150 only
    answer = await ask(engine, (*prompt[:190], 9))
    assert (answer.finish.id_slot, answer.finish.n_cached) == (1, 188)


async def test_slot_that_ends_with_the_prompt_is_not_preferred(start: Start) -> None:
    """The last token of a prompt is always evaluated, so a slot that ends there must be cut."""
    engine = start(RecurrentToyBackend(random_logits, n_slots=2, **MANY))
    prompt = text(1, 300)
    await ask(engine, prompt, id_slot=0, n_answer_start=1)
    await ask(engine, prompt, id_slot=1, n_answer_start=150, n_predict=0)
    answer = await ask(engine, prompt)
    assert (answer.finish.id_slot, answer.finish.n_cached) == (0, 299)


async def test_saved_state_without_a_useful_snapshot_is_not_restored(start: Start) -> None:
    engine = start(RecurrentToyBackend(random_logits, n_slots=1, **MANY), prompt_cache=None)
    prompt = text(1, 500)
    await ask(engine, prompt)  # a snapshot at 488
    await ask(engine, (*prompt[:100], *text(2, 300)))  # a snapshot at 100; the other one is saved
    assert engine.stats().prompt_cache_bytes > 0
    assert (await ask(engine, (*prompt[:200], 9))).finish.n_cached == 100


@pytest.mark.inventory("C-022")
async def test_preloaded_prompt_is_reused(start: Start, kind: str) -> None:
    """The last tokens of the text may be other ones if more text follows."""
    engine = start(KINDS[kind](random_logits, n_slots=1, **MANY))
    prompt = text(1, 310)
    await engine.preload(prompt)
    n_cached = (await ask(engine, (*prompt[:309], 9))).finish.n_cached
    assert n_cached == {"plain": 309, "recurrent": 298, "windowed": 309}[kind]


# --- context shift


@pytest.mark.inventory("K-05", "K-06", "F-03")
@pytest.mark.parametrize(("n_keep", "n_again"), [(0, 50 + 50), (20, 60 + 40 + 40)])
async def test_full_context_is_shifted_or_evaluated_again(start: Start, kind: str, n_keep: int, n_again: int) -> None:
    """The tokens that are kept are evaluated again once only, because there is a snapshot of them then."""
    backend = KINDS[kind](random_logits, n_slots=1, n_ctx=100, n_batch=32)
    engine = start(backend)
    fields: dict[str, Any] = {"n_predict": 150, "context_shift": True, "n_keep": n_keep}
    answer = await ask(engine, text(1, 50), **fields)
    assert (answer.finish.n_predicted, answer.finish.truncated) == (150, True)
    assert bool(backend.shifts) is (kind != "recurrent")
    assert backend.n_evaluated == 50 + 149 + (n_again if kind == "recurrent" else 0)

    # The toy's logits depend on the remaining tokens only, so all backends give the same answer.
    plain = ToyBackend(random_logits, n_slots=1, n_ctx=100, n_batch=32)
    assert answer.ids == (await ask(start(plain), text(1, 50), **fields)).ids
    assert backend.slots[0] == plain.slots[0]


async def test_tokens_after_a_shift_are_reused_if_they_were_evaluated_again(start: Start) -> None:
    backend = RecurrentToyBackend(random_logits, n_slots=1, n_ctx=100, n_batch=32)
    engine = start(backend)
    await ask(engine, text(1, 50), n_predict=80, context_shift=True)
    held = list(backend.slots[0])
    assert (await ask(engine, (*held, 7), n_predict=1)).finish.n_cached == len(held)


async def test_others_generate_while_a_context_is_evaluated_again(start: Start) -> None:
    backend = RecurrentToyBackend(random_logits, n_slots=2, n_ctx=100, n_batch=8)
    engine = start(backend)
    fields: dict[str, Any] = {"n_predict": 150, "context_shift": True}
    answers = await asyncio.gather(*(ask(engine, text(i, 20 + i), **fields) for i in (1, 2)))
    assert all(len(batch.tokens) <= 8 for batch in backend.batches)
    alone = [await ask(engine, text(i, 20 + i), **fields, cache_prompt=False) for i in (1, 2)]
    assert [answer.ids for answer in answers] == [answer.ids for answer in alone]


async def test_disconnect_while_a_context_is_evaluated_again_frees_the_slot(start: Start) -> None:
    backend = RecurrentToyBackend(random_logits, n_slots=1, n_ctx=64, n_batch=4, hold=True)
    engine = start(backend)
    stream = engine.generate(GenerateRequest(text(1, 60), context_shift=True, ignore_eos=True))
    step = asyncio.ensure_future(anext(stream))
    while not backend.truncations:  # the context is full
        backend.allow_forward()
        await backend.wait_for_forward()
    step.cancel()
    await asyncio.gather(step, return_exceptions=True)
    await stream.aclose()
    backend.allow_forward(1000)
    answer = await ask(engine, text(2, 30))
    assert answer.ids == await fresh_answer(start, text(2, 30), n_predict=5, ignore_eos=True)


# --- failures


class HalfWay:
    """Fails once with a batch of several slots, after it was evaluated."""

    failed = False

    def forward(self, batch: Batch) -> Floats:
        rows: Floats = super().forward(batch)  # type: ignore[misc]  # mixed into a ToyBackend
        if len(set(batch.slots.tolist())) > 1 and not self.failed:
            self.failed = True
            raise RuntimeError("after the fact")
        return rows


async def test_tokens_that_a_failure_removed_are_evaluated_again(start: Start, kind: str) -> None:
    made: Any = type("Made", (HalfWay, KINDS[kind]), {})
    backend = made(random_logits, n_slots=2, **MANY, hold=True)
    engine = start(backend)
    tasks = [asyncio.create_task(ask(engine, text(i, 60), n_predict=20)) for i in range(2)]
    await backend.wait_for_forward()
    backend.allow_forward(1000)
    answers = await asyncio.gather(*tasks)
    assert backend.failed
    for i, answer in enumerate(answers):
        assert answer.ids == await fresh_answer(start, text(i, 60), n_predict=20, ignore_eos=True)


async def test_failing_snapshots_do_not_change_responses(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(RecurrentToyBackend):
        def take_snapshot(self, slot: int) -> None:
            raise MemoryError

    engine = start(Broken(random_logits, n_slots=1, **MANY))
    first, second = [await ask(engine, text(1, 100)) for _ in range(2)]
    assert first.ids == second.ids
    assert second.finish.n_cached == 0
    assert "cannot take a snapshot of slot 0" in caplog.text


@pytest.mark.parametrize("value", [None, -1, 3])
async def test_wrong_result_of_truncate_fails_the_request(
    start: Start, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    backend = ToyBackend(random_logits, n_slots=1)
    engine = start(backend)
    await ask(engine, (1, 2, 3))
    backend.truncate = lambda slot, n: value  # type: ignore[method-assign]  # a backend written for another version
    with pytest.raises(GenerationError):
        await ask(engine, (1, 2, 4))
    assert f"truncate(0, 2) returned {value}, not the number of positions that are left" in caplog.text


# --- everything together


@settings(max_examples=25, deadline=None)
@given(data=st.data(), name=st.sampled_from(["recurrent", "windowed"]), n_snapshots=st.integers(1, 4))
def test_results_do_not_depend_on_cuts(data: st.DataObject, name: str, n_snapshots: int, samplers: Any) -> None:
    """Random prompts with common prefixes, in random slots, with a prompt cache and with context shifts."""

    async def run() -> None:
        kind: type[SnapshotToyBackend] = KINDS[name]  # type: ignore[assignment]  # not the plain one
        backend = kind(random_logits, n_slots=2, n_ctx=160, n_batch=16, n_snapshots=n_snapshots)
        engine, plain = (
            BatchingEngine(each, ToyTokenizer(), samplers, EngineOptions(n_batch=16, prompt_cache=20_000))
            for each in (backend, ToyBackend(random_logits, n_slots=1, n_ctx=160))
        )
        base = text(3, 150)
        for _ in range(data.draw(st.integers(1, 8))):
            cut, n_new = data.draw(st.integers(0, 120)), data.draw(st.integers(1, 30))
            prompt = (*base[:cut], *text(data.draw(st.integers(0, 2)), n_new))
            fields: dict[str, Any] = {
                "n_predict": data.draw(st.sampled_from([0, 5, 80])),
                "id_slot": data.draw(st.integers(-1, 1)),
                "n_answer_start": data.draw(st.sampled_from([None, 1, 9])),
                "n_keep": data.draw(st.sampled_from([0, 30])),
                "context_shift": name == "recurrent",
                "logit_bias": {EOS: -np.inf},
            }
            answer = await generate_answer(engine, prompt, **fields)
            expected = await generate_answer(plain, prompt, **fields | {"cache_prompt": False, "id_slot": 0})
            assert answer.ids == expected.ids
            assert all(len(backend.snapshots(slot)) <= n_snapshots for slot in range(2))
        for each in (engine, plain):
            await each.stop(5)

    asyncio.run(run())
