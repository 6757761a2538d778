"""Tests of the sampler against its formula, and in a server."""

from typing import Any

import numpy as np
from llamafw_smooth import Smooth

from llamafw import Candidates
from llamafw.testing.conformance import PluginConformance, SamplerConformance


def test_logits_match_the_formula() -> None:
    candidates = Candidates(np.arange(4, dtype=np.int32), np.array([3.0, 1.0, 2.5, -1.0], np.float32))
    Smooth(0.5).apply(candidates)
    np.testing.assert_allclose(candidates.logits, [3.0, 1.0, 2.875, -5.0])


def test_sampler_is_off_with_factor_0() -> None:
    context: Any = None  # not used
    assert Smooth.create({"smoothing_factor": 0}, context) is None


async def test_server_applies_the_sampler_and_validates_its_option(serve: Any) -> None:
    body = {
        "prompt": "Once",
        "n_predict": 1,
        "n_probs": 4,
        "post_sampling_probs": True,
        "samplers": ["smooth"],
        "seed": 1,
    }

    async with serve() as client:
        found = []
        for factor in (0, 2):
            answer = (await client.post("/completion", json={**body, "smoothing_factor": factor})).json()
            found.append([token["prob"] for token in answer["completion_probabilities"][0]["top_probs"]])

        logits = np.log(np.array(found[0]))  # up to a constant
        smooth = -2 * (logits[0] - logits) ** 2
        ratios = np.array(found[1]) / found[1][0]
        np.testing.assert_allclose(ratios, np.exp(smooth), rtol=1e-3)

        error = (await client.post("/completion", json={**body, "smoothing_factor": 101})).json()["error"]
        assert (error["code"], error["param"]) == (400, "smoothing_factor")


class TestSmooth(SamplerConformance):
    name = "smooth"
    examples = ({"smoothing_factor": 0.3}, {"smoothing_factor": 100})


class TestPlugin(PluginConformance):
    name = "llamafw-smooth"
