"""Responses with drafts: the same tokens as without, in fewer steps, whatever else the request asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from llamafw import DraftRequest, Floats, GenerateRequest, GrammarSource, Ints, Reasoning, ReasoningTags, Timings
from llamafw.engine import BatchingEngine
from llamafw.engine.speculation import SpeculationOptions
from llamafw.sampling.chain import Chain
from support.toy_drafters import KnowingDrafter
from support.toy_model import N_VOCAB, Answer, ToyBackend, generate_answer, random_logits, scripted_logits
from support.toy_snapshots import RecurrentToyBackend, SnapshotToyBackend, WindowedToyBackend

Start = Callable[..., BatchingEngine]
KINDS: dict[str, type[ToyBackend]] = {
    "plain": ToyBackend,
    "recurrent": RecurrentToyBackend,
    "windowed": WindowedToyBackend,
}
ALWAYS = SpeculationOptions(adaptive=False)
PROMPT = tuple(range(30))
SAMPLED: dict[str, Any] = {
    "samplers": ("penalties", "dry", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"),
    "options": {
        "temperature": 0.9, "top_k": 40, "top_p": 0.95, "min_p": 0.01, "typical_p": 0.99, "repeat_penalty": 1.2,
        "repeat_last_n": 20, "presence_penalty": 0.1, "frequency_penalty": 0.1, "penalize_nl": True,
        "dry_multiplier": 0.5, "dry_base": 1.75, "dry_allowed_length": 1, "dry_penalty_last_n": -1,
        "dry_sequence_breakers": [], "xtc_probability": 0.5, "xtc_threshold": 0.05,
    },
    "seed": 7,
}  # fmt: skip
MIROSTAT: dict[str, Any] = {
    "samplers": ("mirostat", "temperature"),
    "options": {"temperature": 1.0, "mirostat": 2, "mirostat_tau": 4.0, "mirostat_eta": 0.2},
    "seed": 3,
}
ADAPTIVE: dict[str, Any] = {
    "samplers": ("adaptive_p",),
    "options": {"temperature": 1.0, "adaptive_target": 0.4, "adaptive_decay": 0.5},
    "seed": 5,
}


class CountedTokens:
    """A grammar of even tokens until the fourth, then of odd ones; it ends after 15 tokens."""

    def __init__(self, n: int = 0) -> None:
        self.n = n

    @property
    def ended(self) -> bool:
        return self.n >= 15

    def accept(self, token: int) -> bool:
        is_allowed = token % 2 == (self.n >= 4)
        self.n += is_allowed
        return is_allowed

    def mask(self, logits: Floats) -> None:
        logits[int(self.n < 4) :: 2] = -np.inf

    def copy(self) -> CountedTokens:
        return CountedTokens(self.n)


GRAMMARS: dict[str, Any] = {"counted": lambda context: SimpleNamespace(compile=lambda source: CountedTokens())}
CASES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": SAMPLED,
    "mirostat": MIROSTAT,
    "adaptive-p": ADAPTIVE,
    "logprobs": SAMPLED | {"n_probs": 3, "logprobs": True},
    "post-sampling": SAMPLED | {"n_probs": 3, "logprobs": True, "post_sampling_probs": True},
    "grammar": SAMPLED | {"grammar": GrammarSource("counted", "")},
    "prompt-logprobs": SAMPLED | {"prompt_logprobs": 2},
    "limit": {"n_predict": 6},
    "one token": {"n_predict": 1},
    "bias": SAMPLED | {"logit_bias": {65: 4.0, 66: float("-inf")}},
    "full context": {"n_predict": -1},
    "context shift": {"n_predict": 50, "context_shift": True, "n_keep": 3},
    "reasoning": {"reasoning": Reasoning(ReasoningTags("<a>", "</a>"), opened=True, budget=5)},
}


def observed(answer: Answer) -> Any:
    """Return everything that a client sees, without times and counts of drafts."""
    finish = replace(answer.finish, timings=Timings(), id_slot=0)
    prompt = [delta.prompt for delta in answer.deltas if delta.prompt]
    return [(delta.text, delta.tokens) for delta in answer.deltas], prompt, finish


def known_text(prompt: Sequence[int], answer: Answer) -> list[int]:
    return [*prompt, *answer.finish.tokens]


@pytest.mark.parametrize("wrong_every", [0, 4, 1], ids=["right", "some wrong", "all wrong"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
async def test_drafts_change_nothing_but_the_number_of_steps(
    start: Start, kind: str, case: str, wrong_every: int
) -> None:
    fields = {"n_predict": 25, "ignore_eos": True, "seed": 1} | CASES[case]
    plain = KINDS[kind]()
    expected = await generate_answer(start(plain, grammars=GRAMMARS), PROMPT, **fields)
    drafter = KnowingDrafter([known_text(PROMPT, expected)], wrong_every=wrong_every)
    backend = KINDS[kind]()
    engine = start(backend, grammars=GRAMMARS, drafters={"knowing": drafter}, speculation=ALWAYS)
    answer = await generate_answer(engine, PROMPT, **fields)

    assert observed(answer) == observed(expected)
    n_drafted, n_accepted = answer.finish.timings.draft_n, answer.finish.timings.draft_n_accepted
    if case == "one token":
        assert n_drafted == 0
        return
    assert n_drafted > 0
    if wrong_every == 0:
        assert len(backend.batches) < len(plain.batches)
        assert n_accepted > 0
    if wrong_every == 1:
        assert n_accepted == 0

    again = await generate_answer(engine, PROMPT, **fields)  # now with what the first left in the cache
    assert observed(again)[0] == observed(expected)[0]


async def test_generators_are_copied_only_for_drafters_that_draw(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy takes longer than such a drafter does."""
    expected = await generate_answer(start(ToyBackend()), PROMPT, n_predict=25, **SAMPLED)
    drafter = KnowingDrafter([known_text(PROMPT, expected)])
    engine = start(ToyBackend(), drafters={"knowing": drafter}, speculation=ALWAYS)
    rehearse = Mock(side_effect=RuntimeError)
    monkeypatch.setattr(Chain, "rehearse", rehearse)
    answer = await generate_answer(engine, PROMPT, n_predict=25, **SAMPLED)
    assert observed(answer) == observed(expected)
    assert answer.finish.timings.draft_n_accepted > 0
    assert not rehearse.called


@pytest.mark.parametrize("wrong_every", [0, 3])
async def test_several_slots_are_drafted_in_one_batch(start: Start, wrong_every: int) -> None:
    prompts = [tuple(range(i, i + 9)) for i in range(4)]
    alone = start(ToyBackend())
    expected = [await generate_answer(alone, prompt, n_predict=20, ignore_eos=True, **SAMPLED) for prompt in prompts]
    texts = [known_text(prompt, answer) for prompt, answer in zip(prompts, expected, strict=True)]
    backend = ToyBackend(n_slots=4, hold=True)
    drafters = {"knowing": KnowingDrafter(texts, wrong_every=wrong_every)}
    engine = start(backend, drafters=drafters, speculation=ALWAYS)
    tasks = [
        asyncio.create_task(generate_answer(engine, prompt, n_predict=20, ignore_eos=True, **SAMPLED))
        for prompt in prompts
    ]
    backend.allow_forward(1000)
    answers = await asyncio.gather(*tasks)
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in expected]
    widest = max(backend.batches, key=lambda batch: len(batch.outputs))
    assert len(widest.outputs) > 8
    assert len(set(widest.slots.tolist())) > 1


@pytest.mark.parametrize("n_batch", [1, 2, 3, 7])
async def test_drafts_fit_into_the_batch(start: Start, n_batch: int) -> None:
    expected = await generate_answer(start(ToyBackend()), PROMPT, n_predict=20, ignore_eos=True)
    backend = ToyBackend(n_batch=n_batch)
    drafter = KnowingDrafter([known_text(PROMPT, expected)], wrong_every=5)
    engine = start(backend, drafters={"knowing": drafter}, speculation=ALWAYS, n_batch=n_batch)
    answer = await generate_answer(engine, PROMPT, n_predict=20, ignore_eos=True)
    assert answer.tokens == expected.tokens
    assert max(len(batch.tokens) for batch in backend.batches) <= n_batch
    assert (answer.finish.timings.draft_n > 0) == (n_batch > 1)


@pytest.mark.parametrize("stop", [("cde",), ("e",), ("fg", "def"), ("z",)])
async def test_stop_string_within_a_draft_ends_the_response(start: Start, stop: tuple[str, ...]) -> None:
    logits = scripted_logits(*b"abcdefgh", after=3)
    expected = await generate_answer(start(ToyBackend(logits)), (1, 2, 3), stop=stop, seed=1)
    backend = ToyBackend(logits)
    drafter = KnowingDrafter([[1, 2, 3, *b"abcdefgh"]], n_max=8)
    engine = start(backend, drafters={"knowing": drafter}, speculation=ALWAYS)
    answer = await generate_answer(engine, (1, 2, 3), stop=stop, seed=1)
    assert observed(answer) == observed(expected)
    assert answer.finish.timings.draft_n_accepted > 0
    n_kept = 3 + answer.finish.n_predicted - 1  # the last token is not evaluated, as without drafts
    assert backend.slots[0] == [1, 2, 3, *b"abcdefgh"][:n_kept]


async def test_distribution_of_sampled_tokens_does_not_change(start: Start) -> None:
    """The pairs of tokens of 4000 seeds have the probabilities of the model: chi-square, 15 degrees of freedom."""

    def logits(prefix: Sequence[int]) -> Floats:
        row = np.full(N_VOCAB, -np.inf, np.float32)
        row[97:101] = [1.0, 0.5, 0.0, -1.0] if prefix[-1] % 2 else [0.0, 1.5, -0.5, 0.5]
        return row

    def probabilities(prefix: Sequence[int]) -> Any:
        weights = np.exp(logits(prefix)[97:101].astype(np.float64))
        return weights / weights.sum()

    drafter = KnowingDrafter([[1, first, 97, 98] for first in range(97, 101)])
    backend = ToyBackend(logits, n_slots=8)
    engine = start(backend, drafters={"knowing": drafter}, speculation=ALWAYS, max_queue=4000)
    fields: dict[str, Any] = {"samplers": ("temperature",), "options": {"temperature": 1.0}, "n_predict": 3}
    answers = await asyncio.gather(*(generate_answer(engine, (1,), seed=seed, **fields) for seed in range(4000)))

    first = probabilities([1])
    expected = np.array([[first[i] * p for p in probabilities([97 + i])] for i in range(4)]) * len(answers)
    counts = np.zeros((4, 4))
    for answer in answers:
        counts[answer.ids[0] - 97, answer.ids[1] - 97] += 1
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 60.0  # exceeded with probability 2e-7
    assert sum(answer.finish.timings.draft_n_accepted for answer in answers) > 1000


@pytest.mark.parametrize("kind", KINDS)
async def test_cache_is_valid_after_a_disconnect(start: Start, kind: str) -> None:
    expected = await generate_answer(start(KINDS[kind]()), PROMPT, n_predict=20, ignore_eos=True)
    drafter = KnowingDrafter([known_text(PROMPT, expected)], wrong_every=4)
    backend = KINDS[kind](n_slots=1)
    engine = start(backend, drafters={"knowing": drafter}, speculation=ALWAYS)
    for n_deltas in range(1, 8):
        stream = engine.generate(GenerateRequest(PROMPT, n_predict=20, ignore_eos=True, samplers=("top_k",)))
        for _ in range(n_deltas):
            await anext(stream)
        await stream.aclose()
    answer = await generate_answer(engine, PROMPT, n_predict=20, ignore_eos=True)
    assert answer.tokens == expected.tokens
    assert len(drafter.finished) == 8


async def test_failed_step_is_repeated_without_drafts(start: Start) -> None:
    expected = await generate_answer(start(ToyBackend()), PROMPT, n_predict=10, ignore_eos=True)
    backend = ToyBackend()
    backend.fail_on = lambda batch: len(batch.outputs) > 1
    drafter = KnowingDrafter([known_text(PROMPT, expected)])
    engine = start(backend, drafters={"knowing": drafter}, speculation=ALWAYS)
    answer = await generate_answer(engine, PROMPT, n_predict=10, ignore_eos=True)
    assert answer.tokens == expected.tokens
    assert answer.finish.timings.draft_n == 0


class BrokenDrafter(KnowingDrafter):
    """Returns something else than a valid draft, or raises an exception."""

    def __init__(self, result: Any) -> None:
        super().__init__([])
        self._result = result

    def draft(self, requests: Sequence[DraftRequest]) -> list[Ints]:
        super().draft(requests)
        if isinstance(self._result, Exception):
            raise self._result
        drafts: list[Ints] = self._result
        return drafts


@pytest.mark.parametrize(
    "result",
    [RuntimeError("no"), [], [np.array([N_VOCAB])], [np.array([-1])], [np.zeros(6)], [np.zeros((1, 1))], None],
    ids=["raises", "too few", "token too high", "token too low", "too long", "two dimensions", "none"],
)
async def test_drafter_that_fails_is_not_used_any_more(start: Start, result: Any, caplog: Any) -> None:
    expected = await generate_answer(start(ToyBackend()), PROMPT, n_predict=10, ignore_eos=True)
    broken = BrokenDrafter(result)
    other = KnowingDrafter([known_text(PROMPT, expected)])
    engine = start(ToyBackend(), drafters={"broken": broken, "other": other}, speculation=ALWAYS)
    answer = await generate_answer(engine, PROMPT, n_predict=10, ignore_eos=True)
    assert answer.tokens == expected.tokens
    assert answer.finish.timings.draft_n_accepted > 0
    assert (len(broken.requests), broken.closed) == (1, True)
    assert "the drafter broken failed" in caplog.text


async def test_first_drafter_with_a_draft_is_used(start: Start) -> None:
    expected = await generate_answer(start(ToyBackend()), PROMPT, n_predict=10, ignore_eos=True)
    text = known_text(PROMPT, expected)
    first, second = KnowingDrafter([text[:34]]), KnowingDrafter([text])
    engine = start(ToyBackend(), drafters={"first": first, "second": second}, speculation=ALWAYS)
    assert (await generate_answer(engine, PROMPT, n_predict=10, ignore_eos=True)).tokens == expected.tokens
    assert len(first.requests) > len(second.requests) > 0


async def test_request_limits_drafts(start: Start) -> None:
    expected = await generate_answer(start(ToyBackend()), PROMPT, n_predict=12, ignore_eos=True)
    drafter = KnowingDrafter([known_text(PROMPT, expected)])
    options = SpeculationOptions(adaptive=False, p_min=0.25)
    engine = start(ToyBackend(), drafters={"knowing": drafter}, speculation=options)
    common: dict[str, Any] = {"n_predict": 12, "ignore_eos": True}

    assert (await generate_answer(engine, PROMPT, draft_n_max=0, **common)).finish.timings.draft_n == 0
    assert drafter.requests == []
    few = await generate_answer(engine, PROMPT, draft_n_max=2, draft_p_min=0.5, **common)
    assert {(n_max, p_min) for _, n_max, p_min in drafter.requests} <= {(2, 0.5), (1, 0.5)}
    assert few.finish.timings.draft_n_accepted > 0
    drafter.requests.clear()
    assert (await generate_answer(engine, PROMPT, draft_n_min=6, **common)).finish.timings.draft_n == 0
    assert {p_min for _, _, p_min in drafter.requests} == {0.25}


async def test_no_token_is_drafted_beyond_the_limit(start: Start) -> None:
    expected = await generate_answer(start(ToyBackend()), PROMPT, n_predict=20, ignore_eos=True)
    drafter = KnowingDrafter([known_text(PROMPT, expected)], n_max=100)
    backend = ToyBackend()
    engine = start(backend, drafters={"knowing": drafter}, speculation=ALWAYS)
    await generate_answer(engine, PROMPT, n_predict=8, ignore_eos=True)
    assert drafter.requests == [(31, 6, 0.0)]  # the first token comes with the prompt, the eighth needs no draft
    assert backend.slots[0] == known_text(PROMPT, expected)[:37]


async def test_backend_that_cannot_hold_states_gets_no_drafts(start: Start) -> None:
    class Snapshots(SnapshotToyBackend):
        hold_state = None  # type: ignore[assignment]  # as if it had no such method

        def __getattribute__(self, name: str) -> Any:
            if name == "hold_state":
                raise AttributeError(name)
            return super().__getattribute__(name)

    drafter = KnowingDrafter([[*PROMPT, *range(30)]])
    engine = start(Snapshots(random_logits), drafters={"knowing": drafter}, speculation=ALWAYS)
    answer = await generate_answer(engine, PROMPT, n_predict=5, ignore_eos=True)
    assert answer.finish.n_predicted == 5
    assert drafter.requests == []
    assert not engine.slots()[0].speculative


async def test_drafts_take_no_snapshots(start: Start) -> None:
    expected = await generate_answer(start(RecurrentToyBackend()), PROMPT, n_predict=20, ignore_eos=True)
    backend = RecurrentToyBackend()
    drafter = KnowingDrafter([known_text(PROMPT, expected)], wrong_every=3)
    engine = start(backend, drafters={"knowing": drafter}, speculation=ALWAYS)
    await generate_answer(engine, PROMPT, n_predict=20, ignore_eos=True)
    assert backend.n_held > 3
    assert all(position < len(PROMPT) for _, position in backend.taken)


async def test_drafts_are_counted(start: Start) -> None:
    expected = await generate_answer(start(ToyBackend()), PROMPT, n_predict=14, ignore_eos=True)
    drafter = KnowingDrafter([known_text(PROMPT, expected)], n_max=4, wrong_every=10)  # of positions 30, 40
    engine = start(ToyBackend(), drafters={"knowing": drafter}, speculation=ALWAYS)
    answer = await generate_answer(engine, PROMPT, n_predict=14, ignore_eos=True)
    # tokens 31 … 34 are right, 35 comes with them; 36 … 39; 40 comes with them; 41, 42
    timings, stats = answer.finish.timings, engine.stats()
    assert (timings.draft_n, timings.draft_n_accepted) == (10, 10)
    assert (stats.drafts, stats.draft_tokens, list(stats.draft_accepted)) == (3, 10, [3, 3, 2, 2])
    assert engine.slots()[0].speculative
