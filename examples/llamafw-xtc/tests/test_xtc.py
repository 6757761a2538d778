"""Tests of the sampler against its definition, of how often it acts, and in a server."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llamafw_xtc import Xtc

from llamafw import Candidates
from llamafw.testing.conformance import PluginConformance, SamplerConformance


def remaining(sampler: Xtc, row: list[float], *, ordered: bool = False) -> list[int]:
    ids, logits = np.arange(len(row), dtype=np.int32), np.array(row, np.float32)
    if ordered:
        order = np.argsort(-logits, kind="stable")
        ids, logits = ids[order], logits[order]
    candidates = Candidates(ids, logits, ordered)
    sampler.apply(candidates)
    assert not candidates.sorted or (candidates.logits[1:] <= candidates.logits[:-1]).all()
    return sorted(candidates.ids.tolist())


@given(
    row=st.lists(st.one_of(st.integers(-3, 3).map(float), st.just(-np.inf)), min_size=1, max_size=12),
    threshold=st.sampled_from([0.0, 0.03, 0.11, 0.23, 0.37, 0.5]),
    min_keep=st.integers(0, 9),
    ordered=st.booleans(),
)
def test_only_the_least_likely_top_choice_stays(
    row: list[float], threshold: float, min_keep: int, ordered: bool
) -> None:
    row[0] = 1.0
    weights = np.exp(np.array(row))
    probs = weights / weights.sum()
    top = sorted((i for i in range(len(row)) if probs[i] >= threshold and probs[i] > 0), key=lambda i: (-row[i], i))
    removed = set(top[:-1]) if len(row) - len(top) + 1 >= min_keep else set()
    sampler = Xtc(1.0, threshold, min_keep=min_keep)
    assert remaining(sampler, row, ordered=ordered) == [i for i in range(len(row)) if i not in removed]


def test_seed_and_probability_determine_removals() -> None:
    removals = []
    for seed in (5, 5, 6):
        sampler = Xtc(0.3, 0.1, seed=seed)
        removals.append([])
        for _ in range(10_000):
            removals[-1].append(len(remaining(sampler, [0.0, 0.0])) == 1)
            sampler.accept(0)
    assert removals[0] == removals[1] != removals[2]
    assert abs(sum(removals[0]) - 3000) < 5 * (10_000 * 0.3 * 0.7) ** 0.5


def test_second_draw_of_a_token_has_the_same_result() -> None:
    sampler = Xtc(0.5, 0.1)
    for _ in range(100):
        assert remaining(sampler, [0.0, 0.0]) == remaining(sampler, [0.0, 0.0])
        sampler.accept(0)


@pytest.mark.parametrize(("probability", "threshold"), [(0, 0.1), (1, 0.51)])
def test_sampler_can_be_off(probability: float, threshold: float) -> None:
    context: Any = None  # not used
    assert Xtc.create({"xtc_probability": probability, "xtc_threshold": threshold}, context) is None


async def test_server_applies_the_sampler_and_validates_options(serve: Any) -> None:
    body = {"prompt": "Once", "n_predict": 1, "n_probs": 4, "post_sampling_probs": True, "temperature": 1.0}
    body |= {"top_k": 4, "top_p": 1, "min_p": 0, "seed": 1}
    async with serve() as client:
        found = []
        for probability in (0, 1):
            fields = {**body, "xtc_probability": probability, "xtc_threshold": 0.0}
            answer = (await client.post("/completion", json=fields)).json()
            assert answer["generation_settings"]["samplers"][-2:] == ["xtc", "temperature"]
            found.append([token["id"] for token in answer["completion_probabilities"][0]["top_probs"]])
        assert found[1] == found[0][-1:]

        fields = {**body, "temperature": 0, "xtc_probability": 1, "xtc_threshold": 0.0, "return_tokens": True}
        greedy = [
            (await client.post("/completion", json={**fields, "samplers": names})).json()["tokens"]
            for names in (["top_k"], ["top_k", "xtc"])
        ]
        assert greedy[0] != greedy[1]

        error = (await client.post("/completion", json={**body, "xtc_probability": 1.5})).json()["error"]
        assert (error["code"], error["param"]) == (400, "xtc_probability")


class TestPlugin(PluginConformance):
    name = "llamafw-xtc"


class TestSampler(SamplerConformance):
    name = "xtc"
    examples = ({"xtc_probability": 0.5}, {"xtc_probability": 1, "xtc_threshold": 0})
