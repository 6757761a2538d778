"""Tests of the sampler against a direct implementation of its definition, and in a server."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llamafw_dry import Dry

from llamafw import Candidates
from llamafw.testing.conformance import PluginConformance, SamplerConformance

PIECES = [b"a", b"b", b"ab", b"\n", b"x\ny", b"c", b"ca", b""]
TOKENIZER: Any = SimpleNamespace(piece=lambda token, special=False: PIECES[token])
N_VOCAB = len(PIECES)
text = st.lists(st.integers(0, N_VOCAB - 1), max_size=40)


def penalties(sampler: Dry, ids: Sequence[int] = range(N_VOCAB)) -> list[float]:
    candidates = Candidates(np.array(ids, np.int32), np.zeros(len(ids), np.float32))
    sampler.apply(candidates)
    assert candidates.ids.tolist() == list(ids)
    return [-float(value) for value in candidates.logits]


def tokens_with_breakers(tokens: Sequence[int], breakers: Sequence[bytes]) -> list[bool]:
    """Return for each token whether a breaker ends in it."""
    found = []
    for i in range(len(tokens)):
        before, whole = (b"".join(PIECES[token] for token in tokens[:end]) for end in (i, i + 1))
        ends = [whole[:end] for end in range(len(before) + 1, len(whole) + 1)]
        found.append(any(text.endswith(breaker) for text in ends for breaker in breakers))
    return found


def expected_penalties(
    tokens: Sequence[int],
    broken: Sequence[bool],
    multiplier: float,
    base: float,
    allowed: int,
    breakers: Sequence[bytes] = (),
) -> list[float]:
    """Return the penalties by definition: count backwards from every earlier position."""
    n, longest = len(tokens), [0] * N_VOCAB
    for i in range(n - 1):
        length = 0
        while length <= i and tokens[i - length] == tokens[n - 1 - length] and not broken[n - 1 - length]:
            length += 1
        longest[tokens[i + 1]] = max(longest[tokens[i + 1]], length)
    exempt = [any(breaker in piece for breaker in breakers) for piece in PIECES]
    return [0.0 if m < allowed or exempt[i] else multiplier * base ** (m - allowed) for i, m in enumerate(longest)]


@given(
    prompt=text,
    answer=text,
    last_n=st.integers(1, 50),
    allowed=st.integers(1, 4),
    base=st.floats(1, 2),
    breakers=st.lists(st.sampled_from([b"\n", b"bc", b"aab", b"\na"]), max_size=3, unique=True),
    some=st.sets(st.integers(0, N_VOCAB - 1), min_size=1),
)
def test_penalties_match_the_definition(
    prompt: list[int], answer: list[int], last_n: int, allowed: int, base: float, breakers: list[bytes], some: set[int]
) -> None:
    sampler = Dry(
        prompt, TOKENIZER, multiplier=0.5, base=base, allowed_length=allowed, last_n=last_n, breakers=breakers
    )
    for token in answer:
        sampler.accept(token)
    tokens = prompt[-last_n:] + answer  # the sampler sees no earlier tokens
    broken = tokens_with_breakers(tokens, breakers)[-last_n:]
    expected = expected_penalties(tokens[-last_n:], broken, 0.5, base, allowed, breakers)
    assert penalties(sampler) == pytest.approx(expected, rel=1e-5)
    ids = sorted(some, reverse=True)
    assert penalties(sampler, ids) == pytest.approx([expected[token] for token in ids], rel=1e-5)


def test_penalty_grows_with_the_passage() -> None:
    sampler = Dry([0, 1, 5, 0], TOKENIZER, multiplier=0.8, base=2.0, allowed_length=1, last_n=100)
    assert penalties(sampler)[1] == pytest.approx(0.8)
    sampler.accept(1)
    assert penalties(sampler)[5] == pytest.approx(1.6)
    sampler.accept(5)
    assert penalties(sampler)[0] == pytest.approx(3.2)


def test_breakers_may_span_several_tokens() -> None:
    prompt = [0, 1, 5, 6, 2, 0, 1, 5]
    (free, broken) = (
        penalties(Dry(prompt, TOKENIZER, multiplier=1.0, base=2.0, allowed_length=1, last_n=100, breakers=breakers))
        for breakers in ([], [b"bc"])
    )
    assert free[6] == pytest.approx(4)
    assert broken == [0] * N_VOCAB


def test_long_repetition_does_not_overflow() -> None:
    sampler = Dry([0] * 5000, TOKENIZER, multiplier=1.0, base=1.75, last_n=5000)
    assert penalties(sampler)[0] == pytest.approx(1e30)
    for _ in range(600):  # more than fit into the initial arrays
        sampler.accept(0)
    assert penalties(sampler)[:2] == [pytest.approx(1e30), 0]


@pytest.mark.parametrize("last_n", [5, 700])
def test_tokens_before_the_window_are_dropped(last_n: int) -> None:
    answer = np.random.default_rng(3).integers(0, 2, 3000).tolist()
    sampler = Dry([], TOKENIZER, multiplier=1.0, base=1.5, allowed_length=1, last_n=last_n)
    for token in answer:
        sampler.accept(token)
    expected = expected_penalties(answer[-last_n:], [False] * last_n, 1.0, 1.5, 1)
    assert penalties(sampler) == pytest.approx(expected, rel=1e-5)
    assert len(sampler.tokens) < 2 * last_n + 600


@pytest.mark.parametrize("options", [{"dry_multiplier": 0.0}, {"dry_multiplier": 1.0, "dry_penalty_last_n": 0}])
def test_sampler_can_be_off(options: dict[str, Any]) -> None:
    defaults = {name: schema["default"] for name, schema in Dry.options.items()}
    context: Any = None  # not used
    assert Dry.create(defaults | options, context) is None


async def test_server_applies_the_sampler_and_validates_options(serve: Any) -> None:
    body = {"prompt": [5, 6, 7, 8, 5, 6, 7], "n_predict": 1, "n_probs": 1000, "post_sampling_probs": True, "seed": 1}
    body |= {"top_k": 0, "top_p": 1, "min_p": 0, "temperature": 1.0}
    async with serve() as client:
        found = []
        for fields in ({}, {"dry_multiplier": 0.7}, {"dry_multiplier": 0.7, "dry_penalty_last_n": 5}):
            answer = (await client.post("/completion", json={**body, **fields})).json()
            names = answer["generation_settings"]["samplers"]
            assert names.index("penalties") < names.index("dry") < names.index("top_k")
            probs = {token["id"]: token["prob"] for token in answer["completion_probabilities"][0]["top_probs"]}
            found.append(probs[8] / probs[9])

        assert found[1] / found[0] == pytest.approx(np.exp(-0.7 * 1.75 ** (3 - 2)), rel=1e-3)
        assert found[2] == pytest.approx(found[0], rel=1e-3)
        error = (await client.post("/completion", json={**body, "dry_sequence_breakers": ["a", ""]})).json()["error"]
        assert (error["code"], error["param"]) == (400, "dry_sequence_breakers.1")


class TestPlugin(PluginConformance):
    name = "llamafw-dry"


class TestSampler(SamplerConformance):
    name = "dry"
    examples = ({"dry_multiplier": 0.8},)
