"""Expensive and endless grammars are refused or stopped, and compiled grammars are cached."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import numpy as np
import pytest

from llamafw import Grammar, GrammarContext, RequestError, Unavailable
from llamafw_plugins.grammars import compiler as compiler_module
from llamafw_plugins.grammars.compile_threads import MAX_THREADS, CompileThreads
from llamafw_plugins.grammars.compiler import CACHE_SIZE, LlguidanceCompiler
from support.json_schema import accepts


def compile_gbnf(context: GrammarContext, source: str) -> Grammar:
    return LlguidanceCompiler("gbnf", context).compile(source)


@pytest.mark.parametrize("source", ["root ::= root", "root ::= a\na ::= b\nb ::= a"])
def test_a_rule_that_is_only_itself_is_refused(context: GrammarContext, source: str) -> None:
    with pytest.raises(RequestError, match="is left-recursive"):
        compile_gbnf(context, source)


def test_a_grammar_that_forces_endless_text_is_too_complex(context: GrammarContext) -> None:
    grammar = compile_gbnf(context, 'root ::= "x" root')
    logits = np.zeros(context.n_vocab, np.float32)
    grammar.mask(logits)
    assert np.flatnonzero(logits == 0).tolist() == [ord("x")]
    with pytest.raises(RequestError, match="too complex"):
        grammar.accept(ord("x"))


def doubling(n: int) -> str:
    """Return a grammar of 2**n optional letters."""
    rules = "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(n))
    return f"root ::= r0\n{rules}r{n} ::= " + '"a"?\n'


EXPENSIVE: list[tuple[str, str]] = [
    ("gbnf", doubling(60)),
    ("gbnf", 'root ::= (("a"{2000}){2000}){2000}'),
    ("gbnf", 'root ::= ((("a"?){1000})?){1000}'),
    ("gbnf", "root ::= " + " ".join(["[a-z]?"] * 9000)),
    ("gbnf", "root ::= " + " ".join(['"a"*'] * 200)),
    ("gbnf", 'root ::= "' + "x" * 65_000 + '"'),
    ("gbnf", "root ::= " + " | ".join(f'"{i}"' for i in range(7000))),
    ("gbnf", 'root ::= "a" root root root | "b"'),
    ("json_schema", json.dumps({"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"})),
    ("json_schema", json.dumps({"type": "string", "pattern": "(a|b)*a(a|b){200}c"})),
    ("json_schema", json.dumps({"allOf": [{"pattern": f"[a-z]{{{i}}}x.*y{{3}}"} for i in range(29)]})),
    ("json_schema", json.dumps({"allOf": [{"items": {"pattern": f"[a-z]{{{i}}}x.*y{{3}}"}} for i in range(29)]})),
    (
        "json_schema",
        json.dumps(
            {
                "allOf": [
                    {"anyOf": [{"properties": {f"{name}{i}": {"type": "null"}}} for name in "ab"]} for i in range(16)
                ]
            }
        ),
    ),
    ("json_schema", json.dumps({"patternProperties": {f"^{chr(97 + i)}.*[0-9]{{5}}{i}": {} for i in range(20)}})),
    ("json_schema", json.dumps({"type": "integer", "multipleOf": 999999937})),
    ("json_schema", json.dumps({"type": "string", "minLength": 10**6, "maxLength": 10**9})),
    ("json_schema", json.dumps({"type": "array", "minItems": 10**6})),
    ("json_schema", json.dumps({"enum": [f"value{i}" for i in range(5000)]})),
    ("json_schema", json.dumps({"const": json.loads("[" * 900 + "]" * 900)})),
]


REFUSALS = "the grammar is too complex|the grammar is invalid|more than 8 patterns"


@pytest.mark.parametrize(("kind", "source"), EXPENSIVE, ids=range(len(EXPENSIVE)))
def test_expensive_grammars_work_or_are_400(context: GrammarContext, kind: str, source: str) -> None:
    """Compiling takes at most `compile_threads.TIMEOUT`, and all masks allow a token, or the request is a 400."""
    random = np.random.default_rng(0)
    n_tokens = 0
    refusal: RequestError | None = None
    try:
        grammar = LlguidanceCompiler(kind, context).compile(source)
        while n_tokens < 20 and not grammar.ended:
            logits = random.standard_normal(context.n_vocab).astype(np.float32)
            grammar.mask(logits)
            assert logits.max() > -np.inf
            assert grammar.accept(int(logits.argmax()))
            n_tokens += 1
    except RequestError as error:
        refusal = error
    assert n_tokens > 0 or refusal is not None
    assert refusal is None or (refusal.status == 400 and re.match(REFUSALS, refusal.message)), refusal


def test_an_ambiguous_grammar_can_be_followed(context: GrammarContext) -> None:
    grammar = compile_gbnf(context, 'root ::= "a" root root root | "b"')
    assert all(grammar.accept(ord("a")) for _ in range(30))


def test_long_chains_of_rules_do_not_overflow_the_stack(
    context: GrammarContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llguidance recurses: 3,000 rules crash the process on a thread with the usual stack size."""
    monkeypatch.setattr(compiler_module, "_compile_threads", CompileThreads(timeout=60))
    n = 4000
    rules = "".join(f"r{i} ::= r{i + 1}\n" for i in range(n))
    assert compile_gbnf(context, f"root ::= r0\n{rules}r{n} ::= " + '"a"').accept(ord("a"))

    definitions = {f"d{i}": {"items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(n)}
    schema = {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{n}": {"type": "null"}}}
    assert accepts(LlguidanceCompiler("json_schema", context), schema, [[[]]])


def test_comparison_of_recursive_branches_ends(context: GrammarContext) -> None:
    n = {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}, "required": ["next"]}
    m = {"type": "object", "properties": {"next": {"$ref": "#/$defs/m"}}, "required": ["next"]}
    schema = {"oneOf": [{"$ref": "#/$defs/n"}, {"$ref": "#/$defs/m"}], "$defs": {"n": n, "m": m}}
    with pytest.raises(RequestError, match="may both be valid"):
        LlguidanceCompiler("json_schema", context).compile(json.dumps(schema))


def test_compiling_stops_waiting_after_the_timeout() -> None:
    threads, release = CompileThreads(timeout=0.05), threading.Event()
    for _ in range(MAX_THREADS):
        with pytest.raises(RequestError, match=r"too complex to be compiled within 0\.05 s"):
            threads.run(release.wait)
    with pytest.raises(Unavailable, match="too many grammars"):
        threads.run(lambda: None)
    release.set()


def test_compile_threads_return_results_and_raise_errors() -> None:
    threads = CompileThreads()
    with pytest.raises(ZeroDivisionError):
        threads.run(lambda: 1 // 0)
    assert [threads.run(lambda: 7) for _ in range(2 * MAX_THREADS)] == [7] * 2 * MAX_THREADS


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of all sources that are compiled from now on."""
    sources: list[str] = []
    original = LlguidanceCompiler._build

    def build(self: LlguidanceCompiler, source: str) -> Any:
        sources.append(source)
        return original(self, source)

    monkeypatch.setattr(LlguidanceCompiler, "_build", build)
    return sources


def test_a_grammar_is_compiled_once(context: GrammarContext, built: list[str]) -> None:
    compiler = LlguidanceCompiler("gbnf", context)
    first, second = (compiler.compile('root ::= "ab"') for _ in range(2))
    assert built == ['root ::= "ab"']

    assert first.accept(ord("a"))
    assert second.accept(ord("a"))  # each has its own state
    assert first.accept(ord("b"))
    assert not second.ended


def test_the_least_recently_used_grammar_is_dropped(context: GrammarContext, built: list[str]) -> None:
    compiler = LlguidanceCompiler("gbnf", context)
    sources = [f'root ::= "{i}"' for i in range(CACHE_SIZE + 1)]
    for source in sources:
        compiler.compile(source)
        compiler.compile(sources[0])  # always the most recently used
    assert built == sources

    compiler.compile(sources[0])
    compiler.compile(sources[1])
    assert built == [*sources, sources[1]]
