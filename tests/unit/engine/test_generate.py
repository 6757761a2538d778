"""Responses of the engine: limits, stop conditions, text, seeds, log-probabilities."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamafw import ContextFullError, Floats, GenerateRequest, GenerationError, RequestError
from llamafw.engine import BatchingEngine
from llamafw_plugins.samplers import DEFAULT_ORDER
from support.toy_model import (
    EOS,
    EOT,
    EURO_HEAD,
    EURO_TAIL,
    HEART,
    HELLO,
    N_VOCAB,
    PIECES,
    WORLD,
    ToyBackend,
    ToyTokenizer,
    alphabet_logits,
    generate_answer,
    random_logits,
    scripted_logits,
)

Start = Callable[..., BatchingEngine]
WARM = {"samplers": DEFAULT_ORDER, "options": {"temperature": 1.2}}


# --- the end of a response


async def test_generation_ends_at_eos(start: Start) -> None:
    engine = start(ToyBackend(scripted_logits(HELLO, WORLD, HEART, after=2)))
    got = await generate_answer(engine, (1, 2))
    assert got.text == "Hello world❤"
    assert got.ids == [HELLO, WORLD, HEART, EOS]
    assert [token.piece for token in got.tokens] == [b"Hello", b" world", "❤".encode(), b""]
    finish = got.finish
    assert (finish.stop_type, finish.stopping_word, finish.truncated) == ("eos", "", False)
    assert (finish.n_prompt, finish.n_cached, finish.n_predicted, finish.id_slot) == (2, 0, 4, 0)
    assert (finish.timings.prompt_n, finish.timings.predicted_n) == (2, 4)
    assert min(finish.timings.prompt_ms, finish.timings.predicted_ms) > 0
    assert all(delta.id_slot == 0 for delta in got.deltas)


@pytest.mark.inventory("E-079", "E-036")
@pytest.mark.parametrize("eog", [EOS, EOT])
async def test_ignore_eos_covers_all_end_of_generation_tokens(start: Start, eog: int) -> None:
    def scores(prefix: Sequence[int]) -> Floats:
        row = alphabet_logits(prefix)
        row[eog] = 20
        return row

    engine = start(ToyBackend(scores))
    assert (await generate_answer(engine, (1,), n_predict=3)).ids == [eog]
    ignoring = await generate_answer(engine, (1,), n_predict=3, ignore_eos=True)
    assert (ignoring.text, ignoring.finish.stop_type) == ("bcd", "limit")


async def test_n_predict_limits_the_response(start: Start) -> None:
    backend = ToyBackend(alphabet_logits, n_ctx=20)
    engine = start(backend)
    five = await generate_answer(engine, (1, 2), n_predict=5)
    assert (five.text, five.finish.stop_type, five.finish.truncated) == ("cdefg", "limit", False)
    none = await generate_answer(engine, (9, 8, 7), n_predict=0)
    assert (none.text, none.ids, none.finish.stop_type) == ("", [], "limit")
    assert (none.finish.n_prompt, none.finish.n_predicted, none.finish.timings.predicted_ms) == (3, 0, 0)
    assert len(backend.batches[-1].outputs) == 0  # no logits are computed
    assert [9, 8, 7] in backend.slots  # but the prompt is cached


@pytest.mark.parametrize(("n_predict", "truncated"), [(-1, True), (-2, True), (100, True), (18, False)])
async def test_full_context_keeps_the_text(start: Start, n_predict: int, truncated: bool) -> None:
    engine = start(ToyBackend(alphabet_logits, n_ctx=20))
    got = await generate_answer(engine, (1, 2), n_predict=n_predict)
    assert got.text == "cdefghijklmnopqrst"
    assert (got.finish.stop_type, got.finish.truncated, got.finish.n_predicted) == ("limit", truncated, 18)


async def test_prompts_that_do_not_fit_are_context_full_errors(start: Start) -> None:
    engine = start(ToyBackend(alphabet_logits, n_ctx=20))
    assert (await generate_answer(engine, (1,) * 19)).finish.n_predicted == 1
    assert (await generate_answer(engine, (1,) * 20, n_predict=0)).finish.n_prompt == 20
    for n in (20, 21, 500):
        with pytest.raises(ContextFullError) as caught:
            await generate_answer(engine, (1,) * n)
        assert caught.value.extra == {"n_prompt_tokens": n, "n_ctx": 20}


async def test_empty_prompt_gets_an_empty_response(start: Start) -> None:
    backend = ToyBackend()
    got = await generate_answer(start(backend), (), seed=3)
    assert (got.text, got.finish.stop_type, got.finish.n_prompt, got.finish.n_predicted) == ("", "none", 0, 0)
    assert got.finish.seed == 3
    assert not backend.batches


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"id_slot": 2}, "id_slot"),
        ({"id_slot": -2}, "id_slot"),
        ({"samplers": ("top_q",)}, "samplers"),
        ({"prompt": (1, N_VOCAB)}, "prompt"),
        ({"prompt": (-1,)}, "prompt"),
        ({"prompt": (2**40,)}, "prompt"),
        ({"logit_bias": {N_VOCAB: 1.0}}, "logit_bias"),
        ({"logit_bias": {1: float("nan")}}, "logit_bias"),
        ({"logit_bias": dict.fromkeys(range(N_VOCAB), float("-inf"))}, "logit_bias"),
    ],
)
async def test_invalid_requests_name_the_field(start: Start, fields: dict[str, Any], param: str) -> None:
    engine = start(ToyBackend())
    with pytest.raises(RequestError) as caught:
        await generate_answer(engine, **{"prompt": (1, 2)} | fields)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert (await generate_answer(engine, (1, 2), n_predict=1)).ids  # other requests still work


async def test_unknown_sampler_gets_a_suggestion(start: Start) -> None:
    with pytest.raises(RequestError, match="did you mean 'top_k'"):
        await generate_answer(start(ToyBackend()), (1,), samplers=("topk",))


# --- text


STOPS = ["a", "ab", "bca", "€", "€€", "oa", "❤", "lloH", "�"]
TOKENS = st.lists(st.sampled_from([97, 98, 99, 0xE2, 0x82, 0xAC, EURO_HEAD, EURO_TAIL, HEART, HELLO]), max_size=12)


@pytest.mark.inventory("E-077")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(tokens=TOKENS, stops=st.lists(st.sampled_from(STOPS), max_size=3))
def test_streamed_text_ends_before_the_first_stop_string(samplers: Any, tokens: list[int], stops: list[str]) -> None:
    whole = b"".join(bytes([token]) if token < 256 else PIECES[token] for token in tokens).decode("utf-8", "replace")
    ends = [(whole.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in whole]
    backend = ToyBackend(scripted_logits(*tokens, after=1))

    async def run() -> None:
        engine = BatchingEngine(backend, ToyTokenizer(), samplers)
        got = await generate_answer(engine, (1,), stop=tuple(stops))
        await engine.stop(5)
        if ends:
            end, length, word = min(ends)
            assert got.text == whole[: end + length]
            assert (got.finish.stop_type, got.finish.stopping_word) == ("word", word)
        else:
            assert got.text == whole
            assert got.finish.stop_type == "eos"
            assert got.ids == [*tokens, EOS]

    asyncio.run(run())


@pytest.mark.parametrize(("n_predict", "text"), [(1, "x"), (2, "xa"), (3, "xab")])
async def test_incomplete_stop_string_is_sent_at_the_end(start: Start, n_predict: int, text: str) -> None:
    """The start of a stop string is ordinary text if the response ends there."""
    got = await generate_answer(
        start(ToyBackend(scripted_logits(*b"xabc", after=1))), (1,), n_predict=n_predict, stop=("abc",)
    )
    assert (got.text, got.finish.stop_type) == (text, "limit")
    assert got.ids == list(text.encode())


@pytest.mark.inventory("E-076", "E-017")
async def test_incomplete_character_at_the_end_becomes_u_fffd(start: Start) -> None:
    got = await generate_answer(
        start(ToyBackend(scripted_logits(97, EURO_HEAD, EURO_TAIL, after=1))), (1,), n_predict=2
    )
    assert (got.text, got.ids) == ("a�", [97, EURO_HEAD])


async def test_tokens_of_the_stop_string_are_not_sent(start: Start) -> None:
    engine = start(ToyBackend(scripted_logits(HELLO, *b" Wabc", after=1)))
    got = await generate_answer(engine, (1,), stop=("ab",))
    assert (got.text, got.ids, got.finish.n_predicted) == ("Hello W", [HELLO, *b" W"], 5)


# --- randomness


@pytest.mark.inventory("E-035", "C-073")
async def test_seed_gives_the_same_text_alone_and_in_a_batch(start: Start) -> None:
    prompts = [tuple(range(i, i + 3 + i % 4)) for i in range(12)]
    alone = start(ToyBackend(n_slots=1, n_batch=7))
    expected = [await generate_answer(alone, prompt, n_predict=15, seed=99, **WARM) for prompt in prompts]
    together = start(ToyBackend(n_slots=5, n_batch=16), n_ubatch=9)
    got = await asyncio.gather(
        *(generate_answer(together, prompt, n_predict=15, seed=99, **WARM) for prompt in prompts)
    )
    assert [a.ids for a in got] == [a.ids for a in expected]
    assert {a.finish.seed for a in got} == {99}
    assert len({tuple(a.ids) for a in got}) > 1


class FailingSampler:
    """A sampler that fails on the first token."""

    options: Mapping[str, Any] = {}
    truncates = False

    @classmethod
    def create(cls, options: Mapping[str, Any], context: Any) -> FailingSampler:
        return cls()

    def apply(self, candidates: Any) -> None:
        raise ValueError

    def accept(self, token: int) -> None:
        """Never reached."""


@pytest.mark.inventory("E-035", "C-073", "S-01")
async def test_seed_is_independent_of_other_requests(start: Start, samplers: Mapping[str, Any]) -> None:
    """The other requests have their own seeds, samplers and lengths; some of them fail."""
    mine = {
        "n_predict": 25,
        "seed": 7,
        "samplers": DEFAULT_ORDER,
        "ignore_eos": True,
        "options": {"temperature": 1.5, "top_k": 0, "frequency_penalty": 0.3, "repeat_last_n": -1},
    }
    alone = await generate_answer(start(ToyBackend(n_slots=1)), (1, 2, 3), **mine)
    engine = start(ToyBackend(n_slots=4, n_batch=9), samplers={**samplers, "broken": FailingSampler})
    others = [
        generate_answer(
            engine,
            tuple(range(i, i + 2 + i % 5)),
            n_predict=1 + i % 9,
            seed=i,
            samplers=("broken",) if i % 4 == 3 else ("mirostat", "temperature")[i % 2 :],
            options={"mirostat": 1 + i % 2, "temperature": 2.0},
        )
        for i in range(30)
    ]
    found = await asyncio.gather(
        *others[:9], generate_answer(engine, (1, 2, 3), **mine), *others[9:], return_exceptions=True
    )
    assert not isinstance(found[9], BaseException)
    assert found[9].ids == alone.ids
    assert sum(isinstance(result, GenerationError) for result in found) == sum(i % 4 == 3 for i in range(30))


async def test_random_seed_is_reported(start: Start) -> None:
    engine = start(ToyBackend())
    first, second = [await generate_answer(engine, (1, 2), n_predict=15, **WARM) for _ in range(2)]
    assert first.ids != second.ids
    again = await generate_answer(engine, (1, 2), n_predict=15, seed=first.finish.seed, **WARM)
    assert again.ids == first.ids


async def test_more_requests_than_slots_are_all_answered(start: Start) -> None:
    backend = ToyBackend(n_slots=3, n_batch=8)
    engine = start(backend)
    prompts = [tuple(np.random.default_rng(i).integers(0, N_VOCAB, 1 + i % 23).tolist()) for i in range(60)]
    got = await asyncio.gather(
        *(generate_answer(engine, p, n_predict=i % 7, seed=i, **WARM) for i, p in enumerate(prompts))
    )
    for i, a in enumerate(got):
        assert a.finish.n_predicted == i % 7 or a.finish.stop_type == "eos"


@pytest.mark.parametrize("n_batch", [1, 2])
async def test_slots_take_turns_if_a_batch_is_smaller_than_their_number(start: Start, n_batch: int) -> None:
    backend = ToyBackend(alphabet_logits, n_slots=4, n_batch=n_batch, hold=True)
    engine = start(backend, n_batch=1000)
    first = asyncio.create_task(generate_answer(engine, (0,), n_predict=1))
    await backend.wait_for_forward()
    others = [asyncio.create_task(generate_answer(engine, (1,) * n, n_predict=6)) for n in (1, 5, 2, 9)]
    await asyncio.sleep(0)  # all of them arrive during the first forward pass
    backend.allow_forward(1000)
    got = await asyncio.gather(*others)
    await first
    assert [a.text for a in got] == ["bcdefg", "fghijk", "cdefgh", "jklmno"]
    turns = [slot for batch in backend.batches[1:5] for slot in batch.slots.tolist()]
    assert {turns.count(slot) for slot in range(4)} == {n_batch}  # every slot gets a turn


@pytest.mark.inventory("E-037")
async def test_logit_bias_forces_and_forbids_tokens(start: Start) -> None:
    engine = start(ToyBackend(alphabet_logits))
    assert (await generate_answer(engine, (1,), n_predict=3, logit_bias={65: 100.0})).text == "AAA"
    assert (await generate_answer(engine, (1,), n_predict=3, logit_bias={65: 1e300})).text == "AAA"
    banned = await generate_answer(engine, (1,), n_predict=1, logit_bias={98: float("-inf"), 66: 0.5})
    assert banned.text == "B"


@pytest.mark.inventory("E-011", "S-01")
async def test_temperature_zero_is_greedy_with_any_samplers(start: Start) -> None:
    engine = start(ToyBackend(alphabet_logits))
    for names in ((), ("top_k",), ("temperature", "penalties"), DEFAULT_ORDER):
        assert (await generate_answer(engine, (1,), n_predict=4, samplers=names)).text == "bcde"
    options = {"temperature": 0, "presence_penalty": 50.0}
    for names in (("temperature", "penalties"), DEFAULT_ORDER):  # penalties apply even if they are named last
        got = await generate_answer(
            engine, tuple(b"bcd"), n_predict=1, samplers=names, options=options, logit_bias={77: 1.0}
        )
        assert got.ids == [77]  # 100 would be the most likely, but it is penalised


# --- probabilities


def log_softmax(row: Floats) -> Any:
    logits = row.astype(np.float64)
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


async def test_logprobs_ignore_bias_and_samplers(start: Start) -> None:
    """They are the log-softmax of the model's own logits."""
    got = await generate_answer(
        start(ToyBackend()), (5, 6), n_predict=6, n_probs=4, logit_bias={7: 2.0}, seed=1, **WARM
    )
    assert got.tokens

    prefix = [5, 6]
    for token in got.tokens:
        expected = log_softmax(random_logits(prefix))
        best = np.lexsort((np.arange(N_VOCAB), -expected))[:4]
        assert token.logprob == pytest.approx(expected[token.id], abs=1e-9)
        assert [top.id for top in token.top] == best.tolist()
        assert [top.logprob for top in token.top] == pytest.approx(expected[best].tolist(), abs=1e-9)
        prefix.append(token.id)


async def test_equal_logprobs_are_ordered_by_token_id(start: Start) -> None:
    got = await generate_answer(
        start(ToyBackend(lambda prefix: np.zeros(N_VOCAB, np.float32))), (1,), n_predict=1, n_probs=3
    )
    assert [top.id for top in got.tokens[0].top] == [0, 1, 2]


async def test_logprobs_can_be_reported_without_alternatives(start: Start) -> None:
    engine = start(ToyBackend())
    (token,) = (await generate_answer(engine, (5, 6), n_predict=1, logprobs=True)).tokens
    assert token.logprob == pytest.approx(log_softmax(random_logits([5, 6]))[token.id])
    assert token.top == ()
    (token,) = (await generate_answer(engine, (5, 6), n_predict=1)).tokens
    assert token.logprob is None


@pytest.mark.inventory("S-20")
async def test_post_sampling_probs_are_those_of_the_candidates(start: Start) -> None:
    got = await generate_answer(
        start(ToyBackend()),
        (5, 6),
        n_predict=1,
        n_probs=9,
        post_sampling_probs=True,
        seed=1,
        samplers=("top_k", "temperature"),
        options={"top_k": 3, "temperature": 2.0},
    )
    row = random_logits([5, 6]).astype(np.float64)
    best = np.argsort(-row)[:3]
    weights = np.exp(row[best] / 2)
    (token,) = got.tokens
    assert [top.id for top in token.top] == best.tolist()
    assert np.exp([top.logprob for top in token.top]) == pytest.approx(weights / weights.sum(), rel=1e-5)
    assert token.logprob in [top.logprob for top in token.top if top.id == token.id]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
async def test_non_finite_logits_fail_the_request(start: Start, bad: float) -> None:
    def scores(prefix: Sequence[int]) -> Floats:
        row = alphabet_logits(prefix)
        if prefix[0] == 13:
            row[3] = bad
        return row

    engine = start(ToyBackend(scores))
    broken, fine = await asyncio.gather(
        generate_answer(engine, (13, 1)), generate_answer(engine, (1, 1), n_predict=3), return_exceptions=True
    )
    assert isinstance(broken, GenerationError)
    assert not isinstance(fine, BaseException)
    assert fine.text == "cde"


async def test_only_the_last_prompt_token_is_an_output(start: Start) -> None:
    backend = ToyBackend(alphabet_logits, n_batch=4)
    await generate_answer(start(backend), tuple(range(10)), n_predict=2)
    assert [(len(b.tokens), b.outputs.tolist()) for b in backend.batches] == [(4, []), (4, []), (2, [1]), (1, [0])]


async def test_generate_raises_before_it_is_awaited(start: Start) -> None:
    with pytest.raises(RequestError):
        start(ToyBackend()).generate(GenerateRequest((1,), id_slot=7))
