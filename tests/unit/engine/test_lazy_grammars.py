"""Grammars that start in the middle of a response."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafw import Floats, Grammar, GrammarContext, GrammarSource
from llamafw.engine import BatchingEngine
from llamafw.engine.grammars import Grammars
from llamafw.sampling.constraint import Constraint
from llamafw_plugins.grammars import KINDS
from llamafw_plugins.grammars.compiler import LlguidanceCompiler
from support.toy_model import BOS, EOS, EOT, HEART, HELLO, N_VOCAB, WORLD, ToyBackend, ToyTokenizer, generate_answer

Start = Callable[..., BatchingEngine]

MARK, CONTROL = N_VOCAB, N_VOCAB + 1
N_LOGITS = N_VOCAB + 4  # two more than tokens
DIGIT_SOURCES = [
    ("gbnf", "root ::= [0-9] [0-9]"),
    ("json_schema", '{"type": "integer", "minimum": 10, "maximum": 99}'),
    ("lark", "start: /[0-9]/ /[0-9]/"),
    ("regex", "[0-9][0-9]"),
    ("two_digits", ""),
]


class MarkTokenizer(ToyTokenizer):
    """Has a token that goes past the string ``=>``, and a control token whose text is hidden."""

    n_vocab = N_VOCAB + 2

    def piece(self, token: int, *, special: bool = False) -> bytes:
        if token == CONTROL:
            return b"<call>" if special else b""
        return b"=>7" if token == MARK else super().piece(token, special=special)


class TwoDigits:
    """A grammar of another plugin: two tokens that are digits."""

    def __init__(self, n_left: int) -> None:
        self.n_left = n_left

    @property
    def ended(self) -> bool:
        return not self.n_left

    def accept(self, token: int) -> bool:
        if not (self.n_left and ord("0") <= token <= ord("9")):
            return False
        self.n_left -= 1
        return True

    def mask(self, logits: Floats) -> None:
        allowed = range(ord("0"), ord("9") + 1) if self.n_left else ()
        logits[[token for token in range(len(logits)) if token not in allowed]] = -np.inf

    def copy(self) -> TwoDigits:
        return TwoDigits(self.n_left)


class TwoDigitsCompiler:
    def __init__(self, context: GrammarContext) -> None:
        pass

    def compile(self, source: str) -> Grammar:
        return TwoDigits(2)


FACTORIES: dict[str, Any] = {kind: partial(LlguidanceCompiler, kind) for kind in KINDS}
FACTORIES["two_digits"] = TwoDigitsCompiler
GRAMMARS = Grammars(FACTORIES, GrammarContext(MarkTokenizer(), N_LOGITS))


async def constrain(text: str, kind: str = "regex", **start: Sequence[str]) -> Constraint:
    return await GRAMMARS.constrain(
        GrammarSource(kind, text, after=tuple(start.get("after", ())), at=tuple(start.get("at", ())))
    )


def feed(constraint: Constraint, text: bytes) -> bool:
    return all(constraint.accept(byte) for byte in text)


def allowed(constraint: Constraint) -> set[int]:
    logits = np.zeros(N_LOGITS, np.float32)
    constraint.mask(logits)
    return set(np.flatnonzero(logits == 0).tolist())


@pytest.mark.parametrize(("kind", "text"), DIGIT_SOURCES)
async def test_every_kind_of_grammar_starts_after_its_string(kind: str, text: str) -> None:
    constraint = await constrain(text, kind, after=["</think>"])
    assert feed(constraint, b"any text <think> 12 </thin")
    assert not constraint.ended
    assert feed(constraint, b"k>1")
    assert not constraint.accept(ord("x"))
    assert constraint.accept(ord("2"))
    assert constraint.ended


async def test_string_of_at_is_part_of_the_grammar() -> None:
    constraint = await constrain("<f>[ab]</f>", at=["<f>"])
    assert feed(constraint, b"text, <g> and <<f>a")
    assert not constraint.accept(ord("b"))
    assert feed(constraint, b"</f>")
    assert constraint.ended


async def test_string_of_after_is_not_part_of_the_grammar() -> None:
    constraint = await constrain("<f>[ab]</f>", after=["<f>"])
    assert feed(constraint, b"<f>")
    assert not constraint.accept(ord("a"))
    assert feed(constraint, b"<f>b</f>")
    assert constraint.ended


async def test_rest_of_the_token_that_completes_the_string_is_constrained() -> None:
    allows = await constrain("7[0-9]", after=["=>"])
    assert allows.accept(MARK)  # "=>7"
    assert not allows.accept(ord("x"))
    assert allows.accept(ord("1"))
    assert allows.ended

    forbids = await constrain("8[0-9]", after=["=>"])
    assert not forbids.accept(MARK)
    assert MARK not in allowed(forbids)
    assert feed(forbids, b"text =>8")
    assert not forbids.accept(MARK)


async def test_string_may_begin_within_a_token() -> None:
    constraint = await constrain("lo!", at=["lo"])
    assert constraint.accept(HELLO)  # "Hello"; the grammar starts with its last two letters
    assert allowed(constraint) == {ord("!")}


async def test_control_tokens_count_by_their_text_and_reach_the_grammar_as_tokens() -> None:
    constraint = await constrain(f"start: <[{CONTROL}]> /[ab]/", "lark", at=["<call>"])
    assert feed(constraint, b"text")
    assert constraint.accept(CONTROL)
    assert allowed(constraint) == {ord("a"), ord("b")}


async def test_at_counts_only_from_the_end_of_after() -> None:
    constraint = await constrain("call [0-9]", after=["</think>"], at=["call"])
    assert feed(constraint, b"call it </think> no ca")
    assert constraint.accept(EOS)  # without a call
    assert feed(constraint, b"ll ")
    assert allowed(constraint) == set(b"0123456789")


async def test_end_of_generation_waits_for_after() -> None:
    constraint = await constrain("[0-9]", after=["</think>"])
    assert feed(constraint, b"hm")
    assert not constraint.accept(EOS)
    assert not {EOS, EOT} & allowed(constraint)
    assert {ord("a"), BOS} <= allowed(constraint)

    assert (await constrain("[0-9]", at=["call"])).accept(EOS)


async def test_incomplete_characters_may_follow_the_string() -> None:
    constraint = await constrain("❤x", after=["Hello"])
    assert constraint.accept(HELLO)
    assert feed(constraint, "❤".encode()[:2])
    assert constraint.accept("❤".encode()[2])
    assert allowed(constraint) == {ord("x")}
    assert (await constrain("❤x", at=["❤"])).accept(HEART)


async def test_first_complete_string_starts_the_grammar() -> None:
    constraint = await constrain("(ab|b)1", at=["abc", "b"])
    assert feed(constraint, b"ab")
    assert allowed(constraint) == {ord("1")}


def test_empty_strings_are_refused() -> None:
    for start in ({"after": ("",)}, {"at": ("x", "")}):
        with pytest.raises(ValueError, match="empty"):
            GrammarSource("regex", "x", **start)


TOKENS = st.lists(
    st.sampled_from([*b"abx<>17=", MARK, CONTROL, HELLO, WORLD, HEART, BOS, EOS, EOT, N_LOGITS - 1]), max_size=16
)


@given(TOKENS, st.sampled_from([{"after": ("=>", "<a")}, {"at": ("=>", "lo")}, {"after": ("b",), "at": ("=>",)}]))
def test_mask_and_accept_agree(tokens: list[int], start: dict[str, tuple[str, ...]]) -> None:
    source = replace(GrammarSource("regex", "((=>)|(lo))?[0-9x]{1,3}"), **start)  # type: ignore[arg-type]  # its two fields
    constraint = GRAMMARS._constrain_now(source)
    for token in tokens:
        fits = allowed(constraint)
        assert allowed(constraint) == fits  # computing the mask changes nothing
        accepted = constraint.accept(token)
        assert accepted == (token in fits), (tokens, token)
        if accepted and token in (EOS, EOT):
            break
        if constraint.ended:
            break


@given(st.text("ab<t>", max_size=12), st.text("01x", max_size=4), st.randoms())
def test_result_does_not_depend_on_tokens(before: str, rest: str, random: Any) -> None:
    """A text is allowed if its rest, behind the first string, is: however the text is split into tokens."""
    text = f"{before}<t>{rest}"
    after_first = text.split("<t>", 1)[1]
    expected = all(char in "01" for char in after_first) and len(after_first) <= 3

    data, pieces, i = text.encode(), [], 0
    while i < len(data):
        n = random.randint(1, 5)
        pieces.append(data[i : i + n])
        i += n

    class Split(ToyTokenizer):
        def piece(self, token: int, *, special: bool = False) -> bytes:
            return pieces[token - N_VOCAB] if token >= N_VOCAB else super().piece(token, special=special)

    tokenizer = Split()
    tokenizer.n_vocab = N_VOCAB + len(pieces)
    grammars = Grammars(FACTORIES, GrammarContext(tokenizer, tokenizer.n_vocab))
    constraint = grammars._constrain_now(GrammarSource("regex", "[01]{0,3}", after=("<t>",)))
    assert all(constraint.accept(N_VOCAB + i) for i in range(len(pieces))) == expected


async def test_response_is_free_until_the_string(start: Start) -> None:
    """The model repeats this text without end; the grammar applies from ``world`` on."""
    script = [*b"so: ", HELLO, WORLD, *b"abc"]

    def logits(prefix: Sequence[int]) -> Floats:
        row = np.zeros(N_VOCAB, np.float32)
        row[script[(len(prefix) - 1) % len(script)]] = 20
        row[ord("7")] = 10
        return row

    engine = start(ToyBackend(logits), grammars=FACTORIES)
    source = GrammarSource("regex", "[0-9]{3}", after=("world",))
    response = await generate_answer(engine, (1,), grammar=source)
    assert (response.text, response.finish.stop_type) == ("so: Hello world777", "eos")

    response = await generate_answer(engine, (1,), grammar=GrammarSource("regex", "ld[0-9]{2}", at=("ld",)))
    assert response.text == "so: Hello world77"


async def test_response_without_the_string_ends_as_it_likes(start: Start) -> None:
    def logits(prefix: Sequence[int]) -> Floats:
        row = np.zeros(N_VOCAB, np.float32)
        row[EOS if len(prefix) == 4 else ord("a")] = 20
        return row

    engine = start(ToyBackend(logits), grammars=FACTORIES)
    response = await generate_answer(engine, (1,), grammar=GrammarSource("regex", "x", at=("call",)))
    assert (response.text, response.finish.stop_type) == ("aaa", "eos")
    owed = await generate_answer(engine, (1,), grammar=GrammarSource("regex", "x", after=("call",)), n_predict=9)
    assert (len(owed.text), owed.finish.stop_type) == (9, "limit")
