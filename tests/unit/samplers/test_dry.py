"""DRY equals its definition, which is written here again in float64 and without shortcuts."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafw import Candidates, SamplerContext
from llamafw_plugins.samplers.dry import Dry
from llamafw_plugins.samplers.sequence_breakers import find_breakers

PIECES = [b"a", b"b", b"ab", b"\n", b"x\ny", b"c", b"ca", b"", "é".encode(), b"\xc3", b"\xa9"]
N_VOCAB = len(PIECES)


class Vocabulary:
    """A tokenizer that takes the longest token first, and bytes that are no token one by one."""

    n_vocab = N_VOCAB
    eog: frozenset[int] = frozenset()

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return PIECES[token]

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        data, tokens = text.encode(), []
        while data:
            fitting = [token for token, piece in enumerate(PIECES) if piece and data.startswith(piece)]
            if fitting:
                tokens.append(max(fitting, key=lambda token: len(PIECES[token])))
            data = data[len(PIECES[tokens[-1]]) if fitting else 1 :]
        return tokens


TOKENIZER: Any = Vocabulary()
BREAKERS = ["\n", "bc", "aab", "abca", "\na", "é", "ccc"]
text = st.lists(st.integers(0, N_VOCAB - 1), max_size=40)


def make(prompt: Sequence[int], *, n_ctx: int = 1000, **options: Any) -> Any:
    defaults = {name: schema["default"] for name, schema in Dry.options.items()}
    given = {f"dry_{name}": value for name, value in options.items()}
    return Dry.create(defaults | given, SamplerContext(tuple(prompt), N_VOCAB, n_ctx, TOKENIZER))


def penalties(sampler: Any, ids: Sequence[int] = range(N_VOCAB)) -> list[float]:
    candidates = Candidates(np.array(ids, np.int32), np.zeros(len(ids), np.float32))
    sampler.apply(candidates)
    assert candidates.ids.tolist() == list(ids)
    return [-float(value) for value in candidates.logits]


def restart_sequences(breakers: Sequence[str]) -> list[tuple[int, list[int]]]:
    """Return what begins with each token: nothing more if it contains a breaker, else the tokens of the rest."""
    found: list[tuple[int, list[int]]] = []
    for breaker in (item.encode() for item in breakers):
        for token, piece in enumerate(PIECES):
            if breaker in piece:
                found.append((token, []))
                continue
            lengths = [n for n in range(1, len(breaker)) if piece.endswith(breaker[:n])]
            tails = [TOKENIZER.encode(breaker[n:].decode(errors="replace")) for n in lengths]
            found += [(token, tail) for tail in tails if tail]
    return found


def expected_penalties(
    window: Sequence[int], multiplier: float, base: float, allowed: int, breakers: Sequence[str]
) -> list[float]:
    """Return the penalties by definition: count backwards from every earlier position."""
    n, sequences, limit = len(window), restart_sequences(breakers), len(window)
    for begin in reversed(range(n)):
        lengths = [len(tail) for head, tail in sequences if [head, *tail] == window[begin : begin + 1 + len(tail)]]
        if lengths:
            limit = n - 1 - begin - max(lengths)
            break

    longest = [-1] * N_VOCAB
    for i in range(n - 1):
        length = 0
        while length <= i and length < limit and window[i - length] == window[n - 1 - length]:
            length += 1
        longest[window[i + 1]] = max(longest[window[i + 1]], length)
    exempt = {head for head, tail in sequences if not tail}
    if n <= allowed:
        longest = [-1] * N_VOCAB
    return [
        0.0 if m < max(allowed, 0) or token in exempt else multiplier * base ** (m - allowed)
        for token, m in enumerate(longest)
    ]


@pytest.mark.inventory("M-01")
@given(
    prompt=text,
    answer=text,
    last_n=st.integers(1, 50),
    allowed=st.integers(0, 4),
    base=st.floats(1, 2),
    breakers=st.lists(st.sampled_from(BREAKERS), max_size=3, unique=True),
    some=st.sets(st.integers(0, N_VOCAB - 1), min_size=1),
)
def test_penalties_match_the_definition(
    prompt: list[int], answer: list[int], last_n: int, allowed: int, base: float, breakers: list[str], some: set[int]
) -> None:
    sampler = make(
        prompt, multiplier=0.5, base=base, allowed_length=allowed, penalty_last_n=last_n, sequence_breakers=breakers
    )
    for token in answer:
        sampler.accept(token)
    window = (prompt + answer)[-last_n:]
    expected = expected_penalties(window, 0.5, base, allowed, breakers)
    assert penalties(sampler) == pytest.approx(expected, rel=1e-5)
    ids = sorted(some, reverse=True)
    assert penalties(sampler, ids) == pytest.approx([expected[token] for token in ids], rel=1e-5)


def test_penalty_grows_with_the_passage() -> None:
    sampler = make([0, 1, 5, 0], multiplier=0.8, base=2.0, allowed_length=1)
    assert penalties(sampler)[1] == pytest.approx(0.8)
    sampler.accept(1)
    assert penalties(sampler)[5] == pytest.approx(1.6)
    sampler.accept(5)
    assert penalties(sampler)[0] == pytest.approx(3.2)


def test_breakers_may_span_several_tokens() -> None:
    """``ca`` would follow ``c`` again, but ``bc`` ends with the last token."""
    prompt = [0, 1, 5, 6, 2, 0, 1, 5]
    free, broken = (
        penalties(make(prompt, multiplier=1.0, base=2.0, allowed_length=1, sequence_breakers=breakers))
        for breakers in ([], ["bc"])
    )
    assert free[6] == pytest.approx(4)
    assert broken == [0] * N_VOCAB


def test_a_token_with_a_breaker_is_not_penalised() -> None:
    for breakers, expected in (([], 1.0), (["\n"], 0.0)):
        sampler = make([0, 1, 4, 0, 1], multiplier=1.0, sequence_breakers=breakers)
        assert penalties(sampler)[4] == expected


def test_breakers_of_a_tokenizer_are_found_once() -> None:
    """The tokenizer is not kept alive."""
    tokenizer: Any = Vocabulary()
    first, again = (find_breakers(["bc", "", "\n"], tokenizer) for _ in "ab")
    assert len(first) == 2
    assert first[0] is again[0]
    reference = weakref.ref(tokenizer)
    del tokenizer
    gc.collect()
    assert reference() is None
    assert find_breakers([""], TOKENIZER) == []


def test_long_repetition_does_not_overflow() -> None:
    sampler = make([0] * 5000, n_ctx=5000, multiplier=1.0, penalty_last_n=-1)
    assert penalties(sampler)[:2] == [pytest.approx(1e30), 0]
    for _ in range(11_000):  # the window moves to the front of its buffer several times
        sampler.accept(0)
    assert penalties(sampler)[:2] == [pytest.approx(1e30), 0]


def test_a_breaker_leaves_the_window() -> None:
    sampler = make([0, 1, 0, 1, 3], multiplier=1.0, penalty_last_n=6)
    window, found = [0, 1, 0, 1, 3], []
    for token in (0, 1, 0, 1, 0, 1):
        sampler.accept(token)
        window.append(token)
        found.append(penalties(sampler)[0])
        assert found[-1] == pytest.approx(expected_penalties(window[-6:], 1.0, 1.75, 2, ["\n"])[0])
    assert found[-2:] == [0, pytest.approx(1.75**2)]  # 0 1 0 1 0 1 ends with a token 1, after which 0 followed


@pytest.mark.parametrize("options", [{"multiplier": 0.0}, {"multiplier": 1.0, "penalty_last_n": 0}])
def test_sampler_can_be_off(options: dict[str, Any]) -> None:
    assert make([0, 1, 0, 1], **options) is None
