"""Rehearsals of a chain, with which drafters guess what it will draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llamafw import Floats, GenerateRequest, SamplerContext
from llamafw.sampling.chain import Chain, build_chain
from llamafw.sampling.sampler_kernels import CandidateBuffers
from llamafw_plugins.samplers import DEFAULT_ORDER
from support.toy_model import ToyTokenizer

N, N_VOCAB = 40, 264


@pytest.fixture
def rows() -> Floats:
    """The logits of some tokens."""
    return np.random.default_rng(5).normal(0, 2, (N, N_VOCAB)).astype(np.float32)


def make(samplers: Any, names: tuple[str, ...], **fields: Any) -> Chain:
    context = SamplerContext((0, 1), N_VOCAB, 100, ToyTokenizer(), seed=3)
    return build_chain(GenerateRequest((0, 1), samplers=names, **fields), 3, samplers, context)


def draw_all(chain: Chain, rows: Floats) -> list[int]:
    buffers = CandidateBuffers(N_VOCAB)
    return [chain.pick(buffers, row.copy())[0] for row in rows]


def rehearse_all(chain: Chain, rows: Floats) -> list[int]:
    rehearsal, buffers = chain.rehearse(), CandidateBuffers(N_VOCAB)
    return [rehearsal.draw(buffers, row.copy()) for row in rows]


@pytest.mark.parametrize(
    "fields",
    [
        {"names": ()},
        {"names": ("top_k", "top_p", "min_p", "temperature"), "options": {"top_k": 9, "temperature": 1.5}},
        {"names": ("typ_p", "temperature"), "options": {"typical_p": 0.7}, "logit_bias": {3: 4.0, 7: -np.inf}},
        {"names": ("temperature",), "options": {"temperature": 0}},
    ],
    ids=["no samplers", "truncated", "biased", "greedy"],
)
def test_the_same_logits_give_the_same_tokens(samplers: Any, rows: Floats, fields: dict[str, Any]) -> None:
    names = fields.pop("names")
    chain = make(samplers, names, **fields)
    for start in (0, 10):  # the second rehearsal goes on where the chain is
        expected = draw_all(make(samplers, names, **fields), rows[: start + 10])[start:]
        assert rehearse_all(chain, rows[start : start + 10]) == expected
        assert draw_all(chain, rows[start : start + 10]) == expected


def test_a_chain_is_not_changed(samplers: Any, rows: Floats) -> None:
    options = {"xtc_probability": 0.5, "presence_penalty": 1.0, "dry_multiplier": 1.0, "temperature": 1.2}
    chain, expected = (make(samplers, DEFAULT_ORDER, options=options) for _ in range(2))
    for row in rows:
        rehearse_all(chain, rows[:3])
        assert draw_all(chain, row[None]) == draw_all(expected, row[None])


def test_a_rehearsal_knows_what_was_drawn_before(samplers: Any, rows: Floats) -> None:
    chain = make(samplers, ("penalties",), options={"presence_penalty": 2.0, "repeat_last_n": 16})
    for row in rows:
        (guess,) = rehearse_all(chain, row[None])
        assert draw_all(chain, row[None]) == [guess]


def test_similar_logits_mostly_give_the_same_tokens(samplers: Any, rows: Floats) -> None:
    chain = make(samplers, ("top_k", "temperature"))
    similar = rows + np.random.default_rng(6).normal(0, 0.02, rows.shape).astype(np.float32)
    guesses, drawn = rehearse_all(chain, similar), draw_all(chain, rows)
    n_right = sum(guess == token for guess, token in zip(guesses, drawn, strict=True))
    n_most_likely = sum(int(row.argmax()) == token for row, token in zip(rows, drawn, strict=True))
    assert n_right > 0.8 * N > 2 * n_most_likely
