"""Tests of the sampler against its formula, and in a server."""

import math
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from llamafw_eta import Eta

from llamafw import Candidates
from llamafw.testing.conformance import PluginConformance, SamplerConformance

scores = st.lists(st.one_of(st.integers(-9, 9).map(float), st.just(-math.inf)), min_size=1, max_size=80)


@given(
    row=scores.filter(lambda row: max(row) > -math.inf),
    epsilon=st.sampled_from([0.0003, 0.013, 0.21, 1.0]),
    min_keep=st.integers(0, 4),
)
def test_unlikely_tokens_are_removed(row: list[float], epsilon: float, min_keep: int) -> None:
    candidates = Candidates(np.arange(len(row), dtype=np.int32), np.array(row, np.float32))
    Eta(epsilon, min_keep=min_keep).apply(candidates)

    weights = [math.exp(value) for value in row]
    p = [weight / sum(weights) for weight in weights]
    entropy = -sum(value * math.log(value) for value in p if value)
    limit = min(epsilon, math.sqrt(epsilon) * math.exp(-entropy))
    limit = min(limit, sorted(p)[-min(max(min_keep, 1), len(p))])
    assert candidates.ids.tolist() == [i for i, value in enumerate(p) if value >= limit * (1 - 1e-9)]


def test_an_uncertain_model_keeps_more() -> None:
    kept = []
    for spread in (1.0, 9.0):
        logits = np.linspace(0, -spread, 1000).astype(np.float32)
        candidates = Candidates(np.arange(1000, dtype=np.int32), logits)
        Eta(0.01).apply(candidates)
        kept.append(len(candidates.ids))
    assert kept[0] == 1000
    assert kept[1] < 500


def test_sampler_is_off_at_0() -> None:
    context: Any = None  # not used
    assert Eta.create({"eta_cutoff": 0}, context) is None


async def test_server_applies_the_sampler_and_validates_its_option(serve: Any) -> None:
    body = {"prompt": "Once", "n_predict": 1, "n_probs": 1000, "post_sampling_probs": True, "temperature": 1.0}
    body |= {"top_k": 0, "top_p": 1, "min_p": 0, "seed": 1}
    async with serve() as client:
        found = []
        for epsilon in (0, 0.02):
            answer = (await client.post("/completion", json={**body, "eta_cutoff": epsilon})).json()
            names = answer["generation_settings"]["samplers"]
            assert names.index("eta") == names.index("top_p") - 1
            found.append({token["id"]: token["prob"] for token in answer["completion_probabilities"][0]["top_probs"]})

        entropy = -sum(p * math.log(p) for p in found[0].values() if p)
        limit = min(0.02, math.sqrt(0.02) * math.exp(-entropy))
        assert set(found[1]) == {token for token, p in found[0].items() if p >= limit}
        assert 0 < len(found[1]) < len(found[0])

        error = (await client.post("/completion", json={**body, "eta_cutoff": 2})).json()["error"]
        assert (error["code"], error["param"]) == (400, "eta_cutoff")


class TestPlugin(PluginConformance):
    name = "llamafw-eta"


class TestSampler(SamplerConformance):
    name = "eta"
    examples = ({"eta_cutoff": 0.001}, {"eta_cutoff": 1})
