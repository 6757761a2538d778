"""What every grammar keeps: mask and accept say the same, what is refused changes nothing, answers are apart."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest

from llamafw.errors import RequestError
from llamafw.interfaces import Grammar, GrammarCompiler, GrammarContext
from llamafw.testing.conformance.base import Conformance, tokenizer

MOST = 400  # tokens of an answer; some grammars have no longest one
KNOWN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "gbnf": (('root ::= "yes" | "no"', 'root ::= [a-c]{2,4} ("," [0-9])?'), ("root ::= (", "nothing ::=")),
    "json_schema": (
        ('{"enum": ["a", 1, null]}', '{"type": "array", "items": {"type": "boolean"}, "maxItems": 3}'),
        ("{", '{"type": "nonsense"}'),
    ),
    "lark": (('start: "a" ("b" | "c")', "start: /[a-c]{1,5}/"), ("start: (",)),
    "regex": (("(yes|no)", "[a-c]{1,5}é?"), ("(",)),
}


class GrammarConformance(Conformance):
    """Subclass it, give the ``name``, ``sources``, and sources that are ``wrong``.

    Attributes
    ----------
    sources : tuple of str
        Sources that the tokenizer of `llamafw.testing.vocabularies.gpt2`, with all bytes, can write.
    wrong : tuple of str
        Sources that must be refused.
    """

    kind = "grammar"
    sources: ClassVar[tuple[str, ...]] = ()
    wrong: ClassVar[tuple[str, ...]] = ()

    def test_mask_and_accept_say_the_same(self) -> None:
        for source, grammar, rng in self.answers():
            for _ in range(MOST):
                may = allowed(grammar)
                if grammar.ended:
                    assert may <= tokenizer().eog, f"{source}: it has ended, and the mask leaves {sorted(may)}"
                    break
                assert may, f"{source}: it has not ended, and the mask leaves nothing"
                refused = [token for token in range(tokenizer().n_vocab) if token not in may]
                for token in rng.choice(refused, min(20, len(refused)), replace=False).tolist():
                    assert not grammar.accept(token), f"{source}: accept takes {token}, which the mask forbids"
                assert allowed(grammar) == may, f"{source}: tokens that were refused have changed what may come"
                token = int(rng.choice(sorted(may)))
                assert grammar.accept(token), f"{source}: accept refuses {token}, which the mask allows"
                if token in tokenizer().eog:
                    break

    def test_a_mask_only_forbids(self) -> None:
        for source, grammar, rng in self.answers(1):
            before = rng.normal(0, 3, tokenizer().n_vocab).astype(np.float32)
            before[::7] = -np.inf
            after = before.copy()
            grammar.mask(after)
            left = after > -np.inf
            assert np.array_equal(after[left], before[left]), f"{source}: the mask has changed logits that it allows"

    def test_answers_are_apart(self) -> None:
        compiler = self.compiler()
        for source in self.find()[0]:
            first, second = compiler.compile(source), compiler.compile(source)
            start = allowed(second)
            first.accept(min(allowed(first)))
            assert allowed(second) == start, f"{source}: one answer went on, and another moved"
            assert allowed(compiler.compile(source)) == start, f"{source}: a new answer does not begin at the start"

    def test_it_compiles_on_many_threads(self) -> None:
        compiler, sources = self.compiler(), self.find()[0]
        alone = [allowed(compiler.compile(source)) for source in sources]
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(lambda _: [allowed(compiler.compile(source)) for source in sources], range(8)):
                assert found == alone, "compiled on several threads, grammars allow something else"

    def test_what_is_wrong_is_refused(self) -> None:
        compiler, wrong = self.compiler(), self.find()[1]
        if not wrong:
            pytest.skip("give some sources that are `wrong`")
        for source in wrong:
            with pytest.raises(RequestError):
                compiler.compile(source)

    # --- how

    def find(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the sources to test with, right ones and wrong ones."""
        sources, wrong = KNOWN.get(self.name, ((), ()))
        sources = self.sources or sources
        if not sources:
            pytest.skip("give some `sources`, and some that are `wrong`")
        return sources, self.wrong or wrong

    def compiler(self) -> GrammarCompiler:
        """Return a compiler for the tiny vocabulary."""
        self.find()
        made: GrammarCompiler = self.thing()(GrammarContext(tokenizer(), tokenizer().n_vocab))
        return made

    def answers(self, n: int = 6) -> Iterator[tuple[str, Grammar, np.random.Generator]]:
        """Yield sources, each ``n`` times, with a grammar at its start and random numbers."""
        compiler = self.compiler()
        for source in self.find()[0]:
            for seed in range(n):
                yield repr(source), compiler.compile(source), np.random.default_rng(seed)


def allowed(grammar: Grammar) -> set[int]:
    """Return the tokens that a grammar's mask leaves."""
    logits = np.zeros(tokenizer().n_vocab, np.float32)
    grammar.mask(logits)
    return set(np.flatnonzero(logits > -np.inf).tolist())


def written(grammar: Grammar, rng: np.random.Generator) -> str | None:
    """Return a random answer that a grammar allows; None if it got too long."""
    text = b""
    for _ in range(MOST):
        may = allowed(grammar)
        ends = may & tokenizer().eog
        if grammar.ended or may == ends:
            return text.decode("utf-8", "replace")
        token = int(rng.choice(sorted(may - ends)))
        if ends and rng.random() < 0.5:
            return text.decode("utf-8", "replace")
        grammar.accept(token)
        text += tokenizer().piece(token, special=True)
    return None
