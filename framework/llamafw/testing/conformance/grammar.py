"""The rules for grammars: `mask` and `accept` agree, rejected tokens change nothing, responses are independent."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from llamafw.errors import RequestError
from llamafw.interfaces import Grammar, GrammarCompiler, GrammarContext
from llamafw.testing.conformance.base import ProtocolConformance, tokenizer

MAX_TOKENS = 400  # per response; some grammars allow endless ones
N_REJECTED = 20  # tokens per step that the mask forbids and `accept` must reject
EXAMPLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "gbnf": (('root ::= "yes" | "no"', 'root ::= [a-c]{2,4} ("," [0-9])?'), ("root ::= (", "nothing ::=")),
    "json_schema": (
        ('{"enum": ["a", 1, null]}', '{"type": "array", "items": {"type": "boolean"}, "maxItems": 3}'),
        ("{", '{"type": "nonsense"}'),
    ),
    "lark": (('start: "a" ("b" | "c")', "start: /[a-c]{1,5}/"), ("start: (",)),
    "regex": (("(yes|no)", "[a-c]{1,5}é?"), ("(",)),
}
"""Valid and invalid sources of the built-in kinds."""


class GrammarConformance(ProtocolConformance):
    """Subclass it, give the ``name``, some ``sources``, and some invalid sources as ``wrong``.

    Attributes
    ----------
    sources : tuple of str
        Valid sources. The vocabulary is `llamafw.testing.vocabularies.gpt2`, which has a token for each byte.
    wrong : tuple of str
        Sources that the compiler must reject.
    """

    kind = "grammar"
    sources: ClassVar[tuple[str, ...]] = ()
    wrong: ClassVar[tuple[str, ...]] = ()

    def test_mask_and_accept_agree(self) -> None:
        """`accept` accepts the tokens that `mask` allows and no others; rejected tokens change nothing."""
        for source, grammar, rng in self.responses():
            for _ in range(MAX_TOKENS):
                allowed = allowed_tokens(grammar)
                if grammar.ended:
                    assert allowed <= tokenizer().eog, (
                        f"{source}: `ended` is true, but the mask allows {sorted(allowed)}"
                    )
                    break
                assert allowed, f"{source}: `ended` is false, but the mask forbids every token"

                forbidden = [token for token in range(tokenizer().n_vocab) if token not in allowed]
                for token in rng.choice(forbidden, min(N_REJECTED, len(forbidden)), replace=False).tolist():
                    assert not grammar.accept(token), f"{source}: accept accepts token {token}, which the mask forbids"
                assert allowed_tokens(grammar) == allowed, f"{source}: rejected tokens have changed the mask"

                token = int(rng.choice(sorted(allowed)))
                assert grammar.accept(token), f"{source}: accept rejects token {token}, which the mask allows"
                if token in tokenizer().eog:
                    break

    def test_mask_only_forbids(self) -> None:
        """`mask` sets logits to −inf and leaves all others as they are."""
        for source, grammar, rng in self.responses(1):
            before = rng.normal(0, 3, tokenizer().n_vocab).astype(np.float32)
            before[::7] = -np.inf
            after = before.copy()
            grammar.mask(after)
            kept = after > -np.inf
            assert np.array_equal(after[kept], before[kept]), f"{source}: the mask changes logits that it allows"

    def test_responses_are_independent(self) -> None:
        """Each `compile` returns a grammar in its initial state; advancing one does not advance another."""
        compiler = self.compiler()
        for source in self.find_sources():
            first, second = compiler.compile(source), compiler.compile(source)
            start = allowed_tokens(second)
            first.accept(min(allowed_tokens(first)))
            assert allowed_tokens(second) == start, f"{source!r}: advancing one response advanced another"
            assert allowed_tokens(compiler.compile(source)) == start, (
                f"{source!r}: a new response does not begin in the initial state"
            )

    def test_copies_are_independent(self) -> None:
        """A copy is in the same state; advancing one of the two does not advance the other."""
        for source, grammar, rng in self.responses(2):
            for _ in range(4):
                allowed, copy = allowed_tokens(grammar), grammar.copy()
                assert allowed_tokens(copy) == allowed, f"{source}: the copy allows other tokens"
                assert copy.ended == grammar.ended, f"{source}: `ended` of the copy differs"
                if grammar.ended or allowed <= tokenizer().eog:
                    break
                token = int(rng.choice(sorted(allowed - tokenizer().eog)))
                assert copy.accept(token), f"{source}: the copy rejects token {token}, which the mask allows"
                assert allowed_tokens(grammar) == allowed, f"{source}: advancing the copy advanced the original"
                grammar.accept(token)
                assert allowed_tokens(copy) == allowed_tokens(grammar), f"{source}: the copy went another way"

    def test_threads_may_share_the_compiler(self) -> None:
        """Several threads can compile at the same time with the same results."""
        compiler, sources = self.compiler(), self.find_sources()
        expected = [allowed_tokens(compiler.compile(source)) for source in sources]
        with ThreadPoolExecutor(4) as pool:
            results = list(
                pool.map(lambda _: [allowed_tokens(compiler.compile(source)) for source in sources], range(8))
            )
        assert results == [expected] * 8, "grammars that several threads compile at once allow other tokens"

    def test_invalid_sources_are_request_errors(self) -> None:
        """Each of the ``wrong`` sources is a RequestError."""
        compiler, wrong = self.compiler(), self.wrong or EXAMPLES.get(self.name, ((), ()))[1]
        if not wrong:
            pytest.skip("give some invalid sources as `wrong`")
        for source in wrong:
            try:
                compiler.compile(source)
            except RequestError:
                continue
            pytest.fail(f"the invalid source {source!r} is accepted")

    # --- helpers

    def implementations(self, tiny_model: Path) -> Iterator[tuple[type, Any]]:
        """Yield the compiler and a grammar that it compiles."""
        compiler = self.compiler()
        yield GrammarCompiler, compiler
        yield Grammar, compiler.compile(self.find_sources()[0])

    def find_sources(self) -> tuple[str, ...]:
        """Return the valid sources to test with."""
        sources = self.sources or EXAMPLES.get(self.name, ((), ()))[0]
        if not sources:
            pytest.skip("give some `sources`, and some invalid ones as `wrong`")
        return sources

    def compiler(self) -> GrammarCompiler:
        """Create a compiler for the tiny vocabulary."""
        self.find_sources()
        made: GrammarCompiler = self.registered()(GrammarContext(tokenizer(), tokenizer().n_vocab))
        return made

    def responses(self, n: int = 6) -> Iterator[tuple[str, Grammar, np.random.Generator]]:
        """Yield every source ``n`` times, with a grammar in its initial state and a random generator."""
        compiler = self.compiler()
        for source in self.find_sources():
            for seed in range(n):
                yield repr(source), compiler.compile(source), np.random.default_rng(seed)


def allowed_tokens(grammar: Grammar) -> set[int]:
    """Return the tokens that a grammar's mask allows."""
    logits = np.zeros(tokenizer().n_vocab, np.float32)
    grammar.mask(logits)
    return set(np.flatnonzero(logits > -np.inf).tolist())


def random_response(grammar: Grammar, rng: np.random.Generator) -> str | None:
    """Return a random text that a grammar allows; None if it does not end within `MAX_TOKENS`."""
    text = b""
    for _ in range(MAX_TOKENS):
        allowed = allowed_tokens(grammar)
        ends = allowed & tokenizer().eog
        if grammar.ended or allowed == ends:
            return text.decode("utf-8", "replace")
        token = int(rng.choice(sorted(allowed - ends)))
        if ends and rng.random() < 0.5:
            return text.decode("utf-8", "replace")
        grammar.accept(token)
        text += tokenizer().piece(token, special=True)
    return None
