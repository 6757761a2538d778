"""Reasoning at the start of a response: its limit, the grammar after it, and the tokens that are counted."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from llamafw import Floats, Reasoning, ReasoningTags
from llamafw.sampling.constraint import Constraint
from llamafw.sampling.reasoning import ReasoningConstraint, visible_tokens
from support.toy_model import EOS, N_VOCAB, ToyTokenizer

TAGS = ReasoningTags("<think>", "</think>")
HARMONY = ReasoningTags("<a>", "<e>", "<f>")
THINK, END = 300, 301


class Words(ToyTokenizer):
    """Bytes, a token for each tag, and a token that goes on after the end tag."""

    n_vocab = 304
    texts = {THINK: b"<think>", END: b"</think>", 302: b"k>{", 303: b"\n\n"}

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        for token in (THINK, END, 303):
            name = self.texts[token].decode()
            if name in text:
                before, _, after = text.partition(name)
                return [*self.encode(before), token, *self.encode(after)]
        return list(text.encode())

    def piece(self, token: int, *, special: bool = False) -> bytes:
        if token in (THINK, END):
            return self.texts[token] if special else b""
        return self.texts.get(token, b"") if token >= N_VOCAB else super().piece(token, special=special)


class Literal:
    """A grammar that allows exactly one text."""

    def __init__(self, text: bytes, tokenizer: Any) -> None:
        self.rest, self.tokenizer = text, tokenizer

    @property
    def ended(self) -> bool:
        return False

    def accept(self, token: int) -> bool:
        if token == EOS:
            return not self.rest
        piece = self.tokenizer.piece(token, special=True)
        if not piece or not self.rest.startswith(piece):
            return False
        self.rest = self.rest[len(piece) :]
        return True

    def mask(self, logits: Floats) -> None:
        for token in range(len(logits)):
            piece = b"" if token == EOS else self.tokenizer.piece(token, special=True)
            if not (token == EOS and not self.rest) and not (piece and self.rest.startswith(piece)):
                logits[token] = -np.inf

    def copy(self) -> Literal:
        return Literal(self.rest, self.tokenizer)


def constrained(
    answer: bytes | None = None, *, tags: ReasoningTags = TAGS, tokenizer: Any = None, **fields: Any
) -> ReasoningConstraint:
    tokenizer = tokenizer or ToyTokenizer()
    grammar = None if answer is None else Constraint(Literal(answer, tokenizer), "grammar")
    return ReasoningConstraint(Reasoning(tags, **fields), tokenizer, grammar)


def allowed(constraint: ReasoningConstraint, n_vocab: int = 259) -> set[int]:
    logits = np.zeros(n_vocab, np.float32)
    constraint.mask(logits)
    return set(np.flatnonzero(logits > -np.inf).tolist())


def write(constraint: ReasoningConstraint, text: str | list[int]) -> None:
    """Accept tokens; each must be in the mask, too."""
    for token in text.encode() if isinstance(text, str) else text:
        assert constraint.accept(token), chr(token)


@pytest.mark.parametrize("before", ["<think>", "", "\n"])
def test_grammar_applies_after_the_reasoning(before: str) -> None:
    constraint = constrained(b"{}", opened=not before.strip())
    write(constraint, before + 'Is it "}" or {? </thin </think>\n\n')
    assert allowed(constraint) == {ord("{"), ord("\n")}
    assert not constraint.accept(ord("x"))
    write(constraint, "{}")
    assert allowed(constraint) == {EOS}


def test_answer_may_begin_without_reasoning() -> None:
    constraint = constrained(b"{}")
    assert allowed(constraint) == {ord("{"), ord("<")}
    write(constraint, "{")
    assert allowed(constraint) == {ord("}")}


def test_start_tag_that_has_begun_is_completed() -> None:
    constraint = constrained(b"{}")
    write(constraint, "<th")
    assert allowed(constraint) == {ord("i")}
    assert not constraint.accept(ord("{"))
    write(constraint, "ink>")
    assert constraint.accept(ord("z"))


def test_tokenizers_may_put_a_space_before_texts() -> None:
    class Spaces(ToyTokenizer):
        def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
            return list(f" {text}".encode())

    constraint = constrained(b"{}", tokenizer=Spaces())
    write(constraint, "<th")
    assert allowed(constraint) == {ord("i")}


def test_response_does_not_end_within_reasoning_if_an_answer_must_follow() -> None:
    constraint = constrained(b"{}", opened=True)
    write(constraint, "Hm")
    assert not constraint.accept(EOS)
    assert EOS not in allowed(constraint)
    assert constrained(opened=True).accept(EOS)


def test_tokens_that_go_on_after_the_end_tag_are_refused_if_a_grammar_follows() -> None:
    constraint = constrained(b"{}", tokenizer=Words(), opened=True)
    write(constraint, [ord(letter) for letter in "Hm</thin"])
    assert not constraint.accept(302)
    permitted = allowed(constraint, 304)
    assert 302 not in permitted
    assert ord("k") in permitted


@pytest.mark.parametrize("tags_are_tokens", [False, True])
@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("budget", [0, 1, 5])
def test_reasoning_ends_after_its_budget(budget: int, opened: bool, tags_are_tokens: bool) -> None:
    tokenizer = Words() if tags_are_tokens else ToyTokenizer()
    constraint = constrained(b"{}", tokenizer=tokenizer, opened=opened, budget=budget)
    if not opened:
        write(constraint, tokenizer.encode("<think>"))
    write(constraint, "x" * budget)
    for token in tokenizer.encode("</think>"):
        assert allowed(constraint, tokenizer.n_vocab) == {token}
        assert not constraint.accept(ord("x"))
        assert constraint.accept(token)
    assert ord("{") in allowed(constraint, tokenizer.n_vocab)
    assert constraint.n_tokens == budget


def test_message_precedes_a_forced_end() -> None:
    constraint = constrained(opened=True, budget=2, message=" Enough.")
    write(constraint, "ab Enough.</think>")
    assert constraint.free


def test_forced_end_includes_the_introduction_of_the_answer() -> None:
    constraint = constrained(tags=HARMONY, budget=1)
    write(constraint, "<a>x")
    write(constraint, "<e><f>")
    assert constraint.free


def test_introduction_of_the_answer_precedes_the_grammar() -> None:
    constraint = constrained(b"{}", tags=HARMONY)
    write(constraint, "<a>x<e>")
    assert allowed(constraint) == {ord("<")}
    write(constraint, "<f>{}")

    constraint = constrained(tags=HARMONY)
    write(constraint, "<a>x<e>another message")


def test_budget_does_not_cut_a_character_or_an_end_tag() -> None:
    constraint = constrained(opened=True, budget=1)
    write(constraint, [0xE2, 0x82, 0xAC])  # the euro sign
    assert allowed(constraint) == {ord("<")}

    constraint = constrained(opened=True, budget=3)
    write(constraint, "ab</think>")
    assert constraint.n_tokens == 2


def test_beginning_of_an_end_tag_does_not_avoid_the_budget() -> None:
    constraint = constrained(opened=True, budget=2)
    n = next(n for n in range(50) if not constraint.accept(ord("<")) or allowed(constraint) == {ord("<")} and n > 20)
    assert n < 20


def test_budget_that_is_not_reached_changes_nothing() -> None:
    constraint = constrained(opened=True, budget=100)
    write(constraint, "short</think>answer with </think> and <think>")
    assert constraint.n_tokens == 5


def test_no_token_is_masked_without_grammar_and_budget() -> None:
    constraint = constrained()
    for letter in b"\n<thx<think>":
        assert constraint.free
        assert constraint.accept(letter)
    assert constraint.n_tokens == 0


def test_control_tokens_of_tags_are_visible() -> None:
    assert visible_tokens(TAGS, Words()) == {THINK, END}
    assert visible_tokens(TAGS, ToyTokenizer()) == frozenset()


def test_white_space_before_the_answer_is_limited() -> None:
    constraint = constrained(b"{}", opened=True)
    write(constraint, "</think>")
    n = next(n for n in range(100) if not constraint.accept(ord("\n")))
    assert n == 8
    assert allowed(constraint) == {ord("{")}


def test_answers_of_the_engine_are_valid_json_after_reasoning() -> None:
    """Draw random tokens as the chain does: accept, else mask and draw again."""
    random = np.random.default_rng(3)
    for _ in range(50):
        constraint = constrained(b'{"a": 1}', budget=int(random.integers(0, 20)), opened=bool(random.integers(2)))
        text = bytearray()
        while True:
            token = int(random.integers(0, 259))
            if not constraint.accept(token):
                token = int(random.choice(sorted(allowed(constraint))))
                assert constraint.accept(token)
            if token == EOS:
                break
            text += ToyTokenizer().piece(token)
        assert json.loads(bytes(text).rpartition(b"</think>")[2]) == {"a": 1}
