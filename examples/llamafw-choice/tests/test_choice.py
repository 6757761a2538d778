"""Tests of the grammar on a tiny vocabulary, and of the request field in a server."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from llamafw_choice import ChoiceCompiler

from llamafw import GrammarContext, RequestError
from llamafw.testing.conformance import GrammarConformance, PluginConformance

PIECES = [b"", b"y", b"e", b"s", b"no", b"n", b"ye", b"yes", b"yesno", b"\xc3", b"\xa9", b"n\xc3"]


def compiler() -> ChoiceCompiler:
    tokenizer: Any = SimpleNamespace(n_vocab=len(PIECES), eog={0}, piece=lambda token: PIECES[token])
    return ChoiceCompiler(GrammarContext(tokenizer, len(PIECES)))


def allowed(grammar: Any) -> set[bytes]:
    logits = np.zeros(len(PIECES), np.float32)
    grammar.mask(logits)
    return {PIECES[token] for token in np.flatnonzero(logits == 0)}


def test_allowed_tokens_and_end_of_grammar() -> None:
    grammar = compiler().compile('["yes", "yesno", "né"]')
    assert allowed(grammar) == {b"y", b"ye", b"yes", b"yesno", b"n", b"n\xc3"}
    assert not grammar.accept(0)  # end of generation
    assert not grammar.accept(PIECES.index(b"e"))
    assert grammar.accept(PIECES.index(b"yes"))
    assert not grammar.ended
    assert allowed(grammar) == {b"", b"no"}  # not b"n": the rest, b"o", is not a token
    assert not grammar.accept(PIECES.index(b"n"))
    assert grammar.accept(PIECES.index(b"no"))
    assert grammar.ended


def test_mask_and_accept_agree_on_random_answers() -> None:
    choices, rng = compiler(), np.random.default_rng(0)
    n_accepted = 0

    for _ in range(30):
        grammar: Any = choices.compile('["yes", "yesno", "né", "n"]')
        while not grammar.ended:
            pieces = allowed(grammar)
            forbidden = [token for token, piece in enumerate(PIECES) if piece not in pieces]
            assert not any(grammar.accept(token) for token in forbidden)
            assert grammar.accept(int(rng.choice([token for token, piece in enumerate(PIECES) if piece in pieces])))
            n_accepted += 1

    assert n_accepted >= 30


def test_texts_that_no_tokens_spell_are_refused() -> None:
    with pytest.raises(RequestError, match="no tokens to write 'no way'") as caught:
        compiler().compile('["yes", "no way"]')
    assert caught.value.param == "1"


async def test_server_answers_with_one_of_the_texts(serve: Any) -> None:
    texts = ["yes", "yes, of course", "no", "perhaps", "né €"]

    async with serve() as client:
        seen: Counter[str] = Counter()
        for seed in range(40):
            body = {"prompt": "Well?", "choice": texts, "seed": seed, "top_k": 0, "top_p": 1, "min_p": 0}
            seen[(await client.post("/completion", json=body)).json()["content"]] += 1
        assert set(seen) <= set(texts)
        assert len(seen) > 2

        chat = {"messages": [{"role": "user", "content": "Well?"}], "choice": ["no"]}
        answer = (await client.post("/v1/chat/completions", json=chat)).json()["choices"][0]
        assert (answer["message"]["content"], answer["finish_reason"]) == ("no", "stop")

        for wrong, param in (
            ({"choice": []}, "choice"),
            ({"choice": ["a"], "json_schema": {}}, "choice"),
            ({"choice": [1]}, "choice.0"),
        ):
            error = (await client.post("/completion", json={"prompt": "x", **wrong})).json()["error"]
            assert (error["code"], error["param"]) == (400, param)


class TestChoice(GrammarConformance):
    name = "choice"
    sources = ('["yes", "no", "né €"]', '["a", "ab", "abc"]')


class TestPlugin(PluginConformance):
    name = "llamafw-choice"
