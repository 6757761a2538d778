"""The suite for grammars names the rule that a grammar breaks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from llamafw.testing.conformance import GrammarConformance
from llamafw_plugins.grammars.compiler import LlguidanceCompiler
from support.conformance import assert_fails, suite


def grammar(**members: Any) -> Any:
    """Return the suite for GBNF grammars with other methods."""

    def compile(self: Any, source: str) -> Any:
        made: Any = LlguidanceCompiler.compile(self, source)
        made.__class__ = type("Broken", (type(made),), members)
        return made

    compiler = type("Broken", (LlguidanceCompiler,), {"compile": compile})
    return suite(GrammarConformance, lambda context: compiler("gbnf", context), name="gbnf")


def test_mask_that_forbids_nothing_is_reported() -> None:
    grammar().test_mask_and_accept_agree()  # the correct one passes
    made = grammar(mask=lambda self, logits: None)
    assert_fails(made.test_mask_and_accept_agree, "accept rejects token|the mask allows|the mask forbids")


def test_accept_that_takes_everything_is_reported() -> None:
    made = grammar(accept=lambda self, token: True)
    assert_fails(made.test_mask_and_accept_agree, "which the mask forbids")


def test_mask_that_changes_allowed_logits_is_reported() -> None:
    made = grammar(mask=lambda self, logits: logits.fill(1))
    assert_fails(made.test_mask_only_forbids, "the mask changes logits that it allows")


def test_state_shared_by_responses_is_reported() -> None:
    class Caching(LlguidanceCompiler):
        def compile(self, source: str) -> Any:
            return self.__dict__.setdefault(source, LlguidanceCompiler.compile(self, source))

    made = suite(GrammarConformance, lambda context: Caching("gbnf", context), name="gbnf")
    assert_fails(made.test_responses_are_independent, "advancing one response advanced another")


def test_copy_that_is_the_original_is_reported() -> None:
    grammar().test_copies_are_independent()  # the correct one passes
    made = grammar(copy=lambda self: self)
    assert_fails(made.test_copies_are_independent, "advancing the copy advanced the original")


def test_accepting_an_invalid_source_is_reported() -> None:
    compiler = SimpleNamespace(compile=lambda source: None)
    made = suite(GrammarConformance, lambda context: compiler, name="gbnf")
    assert_fails(made.test_invalid_sources_are_request_errors, "the invalid source 'root ::= .' is accepted")
