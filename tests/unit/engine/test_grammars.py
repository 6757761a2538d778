"""Generation under grammars, with simple grammars defined here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llamafw import Floats, Grammar, GrammarContext, GrammarSource, RequestError
from llamafw.engine import BatchingEngine
from support.toy_model import EOS, N_VOCAB, ToyBackend, generate_answer, random_logits

Start = Callable[..., BatchingEngine]


class Word:
    """A grammar that allows one word.

    It counts the masks that it computes.
    """

    def __init__(self, word: bytes) -> None:
        self.left, self.masks = list(word), 0

    @property
    def ended(self) -> bool:
        return not self.left

    def accept(self, token: int) -> bool:
        if self.left and token == self.left[0]:
            del self.left[0]
            return True
        return False

    def mask(self, logits: Floats) -> None:
        self.masks += 1
        allowed = self.left[:1]
        keep = logits[allowed]
        logits[:] = -np.inf
        logits[allowed] = keep

    def copy(self) -> Word:
        return Word(bytes(self.left))


class Compiler:
    def __init__(self, context: GrammarContext) -> None:
        assert context.n_vocab == N_VOCAB
        self.made: list[Any] = []

    def compile(self, source: str) -> Grammar:
        if source == "wrong":
            raise RequestError("it is wrong", param="at.3")
        if source == "broken":
            raise OSError("/secret/place")
        failures = {"fails": ValueError("/secret/place"), "too complex": RequestError("it is too complex")}
        self.made.append(Failing(failures[source]) if source in failures else Word(source.encode()))
        return self.made[-1]  # type: ignore[no-any-return]  # just appended


class Failing(Word):
    def __init__(self, error: Exception) -> None:
        super().__init__(b"x")
        self.error = error

    def accept(self, token: int) -> bool:
        raise self.error


def likely(text: bytes) -> Callable[[Any], Floats]:
    def scores(prefix: Any) -> Floats:
        row = random_logits(prefix)
        row[text[min(len(prefix) - 1, len(text) - 1)]] = 50
        return row

    return scores


def word(text: str) -> GrammarSource:
    return GrammarSource("word", text, "field")


@pytest.mark.inventory("S-02")
async def test_mask_is_computed_only_if_the_drawn_token_is_refused(start: Start) -> None:
    made: list[Compiler] = []

    def factory(context: GrammarContext) -> Compiler:
        made.append(Compiler(context))
        return made[-1]

    engine = start(ToyBackend(likely(b"abX")), grammars={"word": factory})
    got = await generate_answer(engine, (1,), grammar=word("abc"))
    assert (got.text, got.finish.stop_type, got.finish.n_predicted) == ("abc", "eos", 3)
    assert made[0].made[0].masks == 1
    assert (await generate_answer(engine, (1,), grammar=word("abc"))).text == "abc"
    assert len(made) == 1  # one compiler per model


async def test_grammar_that_allows_the_draw_does_not_change_it(start: Start) -> None:
    engine = start(ToyBackend(random_logits), grammars={"word": Compiler})
    ascii_only = dict.fromkeys(range(128, 264), -9e9)
    warm: dict[str, Any] = {"options": {"temperature": 1.0}, "n_predict": 6, "logit_bias": ascii_only}
    for seed in range(5):
        free = await generate_answer(engine, (1,), seed=seed, **warm)
        assert (
            await generate_answer(engine, (1,), seed=seed, grammar=word(bytes(free.ids).decode()), **warm)
        ).ids == free.ids


async def test_logit_bias_applies_under_a_grammar(start: Start) -> None:
    engine = start(ToyBackend(random_logits), grammars={"word": Compiler})
    got = await generate_answer(engine, (1,), grammar=word("abc"), logit_bias={ord("b"): -np.inf})
    assert (got.text, got.finish.stop_type) == ("a", "none")  # every token is forbidden, so the response ends


async def test_eos_is_drawn_only_where_the_grammar_may_end(start: Start) -> None:
    engine = start(ToyBackend(lambda prefix: np.eye(N_VOCAB, dtype=np.float32)[EOS] * 50), grammars={"word": Compiler})
    assert (await generate_answer(engine, (1,), grammar=word("ab"))).text == "ab"


@pytest.mark.parametrize(
    ("source", "status", "param"),
    [
        (word("wrong"), 400, "field.at.3"),
        (GrammarSource("wrod", "x"), 400, "grammar"),
        (word("broken"), 500, "field"),
        (word("fails"), 500, None),
        (word("too complex"), 400, "field"),
    ],
)
async def test_grammar_failure_fails_only_its_request(
    start: Start, caplog: pytest.LogCaptureFixture, source: GrammarSource, status: int, param: str | None
) -> None:
    engine = start(ToyBackend(random_logits), grammars={"word": Compiler})
    with pytest.raises(RequestError) as caught:
        await generate_answer(engine, (1,), grammar=source)
    assert (caught.value.status, caught.value.param) == (status, param)
    assert "secret" not in caught.value.message
    assert (await generate_answer(engine, (1,), grammar=word("ok"))).text == "ok"
