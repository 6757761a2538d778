"""Tests of the sampler against its definition, and in a server."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from llamafw_no_repeat import NoRepeat

from llamafw import Candidates
from llamafw.testing.conformance import PluginConformance, SamplerConformance

N_VOCAB = 5
text = st.lists(st.integers(0, N_VOCAB - 1), max_size=30)


def allowed(sampler: NoRepeat, logits: list[float]) -> list[int]:
    candidates = Candidates(np.arange(len(logits), dtype=np.int32), np.array(logits, np.float32))
    sampler.apply(candidates)
    return [int(i) for i in candidates.ids[candidates.logits > -np.inf]]


@given(prompt=text, answer=text, n=st.integers(1, 4))
def test_sequences_do_not_occur_twice(prompt: list[int], answer: list[int], n: int) -> None:
    sampler = NoRepeat(n, prompt)
    for token in answer:
        sampler.accept(token)

    whole = prompt + answer
    seen = {tuple(whole[i : i + n]) for i in range(len(whole) - n + 1)}
    last = whole[len(whole) - n + 1 :]
    expected = [token for token in range(N_VOCAB) if len(last) < n - 1 or (*last, token) not in seen]
    assert allowed(sampler, [3, 2, 1, 0, -1]) == (expected or [0])  # if nothing is allowed, the likeliest token is


async def test_server_applies_the_sampler_and_validates_its_option(serve: Any) -> None:
    body = {"prompt": [5, 6, 7, 5, 6], "n_predict": 1, "n_probs": 1000, "post_sampling_probs": True, "seed": 1}
    body |= {"top_k": 0, "top_p": 1, "min_p": 0, "temperature": 1.0}
    async with serve() as client:
        found = []
        for n in (0, 3, 4):
            answer = (await client.post("/completion", json={**body, "no_repeat_ngram_size": n})).json()
            found.append({token["id"] for token in answer["completion_probabilities"][0]["top_probs"]})
        assert found[0] == found[2]
        assert found[0] - found[1] == {7}

        error = (await client.post("/completion", json={**body, "no_repeat_ngram_size": -1})).json()["error"]
        assert (error["code"], error["param"]) == (400, "no_repeat_ngram_size")


class TestPlugin(PluginConformance):
    name = "llamafw-no-repeat"


class TestSampler(SamplerConformance):
    name = "no_repeat"
    examples = ({"no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 1})
