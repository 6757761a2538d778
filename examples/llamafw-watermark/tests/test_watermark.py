"""Tests of the watermark by its definition, and in a server."""

from typing import Any

import numpy as np
from llamafw_watermark import Watermark, green_tokens, z_score

from llamafw import Candidates
from llamafw.testing.conformance import PluginConformance, SamplerConformance

N_VOCAB = 1001


def test_about_half_of_the_tokens_are_green() -> None:
    found = np.array([green_tokens("key", last, N_VOCAB) for last in range(200)])
    assert found.shape == (200, N_VOCAB)
    assert abs(found.mean() - 0.5) < 0.01
    assert abs(found.mean(axis=0) - 0.5).max() < 0.2  # every token is green after about half of the others


def test_key_and_last_token_decide_which_tokens_are_green() -> None:
    first = green_tokens("key", 7, N_VOCAB)
    assert (green_tokens("key", 7, N_VOCAB) == first).all()
    for key, last in (("key", 8), ("other", 7)):
        assert 400 < (green_tokens(key, last, N_VOCAB) == first).sum() < 600


def test_green_tokens_get_likelier() -> None:
    sampler = Watermark(1.5, "key", N_VOCAB, last=3)
    for last in (3, 4):
        ids = np.arange(N_VOCAB - 1, 0, -2).astype(np.int32)
        candidates = Candidates(ids, np.zeros(len(ids), np.float32), sorted=True)
        sampler.apply(candidates)
        assert candidates.logits.tolist() == np.where(green_tokens("key", last, N_VOCAB)[ids], 1.5, 0).tolist()
        assert not candidates.sorted
        sampler.accept(4)


def test_repeated_passages_do_not_count() -> None:
    tokens = np.random.default_rng(1).integers(0, N_VOCAB, 300).tolist()
    assert abs(z_score(tokens, "key", N_VOCAB)) < 4
    assert z_score(tokens * 9, "key", N_VOCAB) == z_score([*tokens, tokens[0]], "key", N_VOCAB)
    assert z_score([5], "key", N_VOCAB) == 0


async def test_the_key_detects_a_marked_text(serve: Any) -> None:
    body = {
        "prompt": "Once",
        "n_predict": 200,
        "return_tokens": True,
        "ignore_eos": True,
        "seed": 1,
        "temperature": 1.5,
    }
    body |= {"top_k": 0, "top_p": 1, "min_p": 0}
    async with serve() as client:
        n_vocab = (await client.get("/v1/models")).json()["data"][0]["meta"]["n_vocab"]
        answers = []
        for delta in (0, 3, 3):
            fields = {**body, "watermark_delta": delta, "watermark_key": "k"}
            answers.append((await client.post("/completion", json=fields)).json())
        plain, marked, again = answers

        assert marked["tokens"] == again["tokens"]
        assert z_score(marked["tokens"], "k", n_vocab) > 5
        assert abs(z_score(plain["tokens"], "k", n_vocab)) < 4
        assert abs(z_score(marked["tokens"], "other", n_vocab)) < 4

        error = (await client.post("/completion", json={**body, "watermark_delta": "x"})).json()["error"]
        assert (error["code"], error["param"]) == (400, "watermark_delta")


class TestPlugin(PluginConformance):
    name = "llamafw-watermark"


class TestSampler(SamplerConformance):
    name = "watermark"
    examples = ({"watermark_delta": 2, "watermark_key": "k"},)
