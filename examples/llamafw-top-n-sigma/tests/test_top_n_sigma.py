"""Tests of the sampler against its formula, and in a server."""

import math
from statistics import pstdev
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llamafw_top_n_sigma import TopNSigma

from llamafw import Candidates
from llamafw.testing.conformance import PluginConformance, SamplerConformance

scores = st.lists(st.one_of(st.integers(-9, 9).map(float), st.just(-math.inf)), min_size=1, max_size=80)


@given(row=scores.filter(lambda row: max(row) > -math.inf), n=st.sampled_from([0.3, 1.1, 2.2, 50.0]))
def test_tokens_within_n_standard_deviations_stay(row: list[float], n: float) -> None:
    candidates = Candidates(np.arange(len(row), dtype=np.int32), np.array(row, np.float32))
    TopNSigma(n).apply(candidates)
    lowest = max(row) - n * pstdev(value for value in row if value > -math.inf)
    assert candidates.ids.tolist() == [i for i, value in enumerate(row) if value > -math.inf and value >= lowest - 1e-9]


@pytest.mark.parametrize("temperature", [0.2, 5.0])
def test_temperature_does_not_change_the_kept_tokens(temperature: float) -> None:
    row = np.random.default_rng(1).standard_normal(151_936).astype(np.float32)
    kept = []
    for logits in (row.copy(), row / np.float32(temperature)):
        candidates = Candidates(np.arange(len(row), dtype=np.int32), logits)
        TopNSigma(1.5).apply(candidates)
        kept.append(candidates.ids.tolist())
    assert kept[0] == kept[1]
    assert 1 < len(kept[0]) < 1000


@pytest.mark.parametrize("n", [0, -1])
def test_sampler_is_off_at_0_and_below(n: float) -> None:
    context: Any = None  # not used
    assert TopNSigma.create({"top_n_sigma": n}, context) is None


async def test_server_applies_the_sampler_and_validates_its_option(serve: Any) -> None:
    body = {"prompt": "Once", "n_predict": 1, "n_probs": 1000, "post_sampling_probs": True, "temperature": 1.0}
    body |= {"top_k": 0, "top_p": 1, "min_p": 0, "seed": 1}
    async with serve() as client:
        found = []
        for n in (-1, 2.0):
            answer = (await client.post("/completion", json={**body, "top_n_sigma": n})).json()
            names = answer["generation_settings"]["samplers"]
            assert names.index("penalties") < names.index("top_n_sigma") < names.index("top_k")
            found.append({token["id"]: token["prob"] for token in answer["completion_probabilities"][0]["top_probs"]})

        logits = {token: math.log(prob) for token, prob in found[0].items()}  # up to a constant
        lowest = max(logits.values()) - 2 * pstdev(logits.values())
        assert set(found[1]) == {token for token, logit in logits.items() if logit >= lowest}
        assert 0 < len(found[1]) < len(found[0])

        error = (await client.post("/completion", json={**body, "top_n_sigma": "x"})).json()["error"]
        assert (error["code"], error["param"]) == (400, "top_n_sigma")


class TestPlugin(PluginConformance):
    name = "llamafw-top-n-sigma"


class TestSampler(SamplerConformance):
    name = "top_n_sigma"
    examples = ({"top_n_sigma": 1},)
