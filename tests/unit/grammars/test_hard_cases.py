"""Where grammars and tokens do not meet neatly, and grammars that ask for too much."""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import pytest

from llamafw import GrammarContext, RequestError, Unavailable
from llamafw_plugins.grammars import compiler as module
from llamafw_plugins.grammars.budget import N_THREADS, Budget
from llamafw_plugins.grammars.compiler import Compiler
from support.json_schema import accepts
from support.toy import EOS, EOT, EURO_HEAD, EURO_TAIL, HELLO, WORLD


def gbnf(context: GrammarContext, source: str) -> Any:
    return Compiler("gbnf", context).compile(source)


def allowed(grammar: Any, context: GrammarContext) -> set[int]:
    row = np.zeros(context.n_vocab, np.float32)
    grammar.mask(row)
    return set(np.flatnonzero(row == 0).tolist())


@pytest.mark.inventory("G-01", "S-02")
def test_the_end_comes_where_the_grammar_ends(context: GrammarContext) -> None:
    grammar = gbnf(context, 'root ::= "a" "b"?')
    assert not grammar.accept(EOS)
    assert grammar.accept(ord("a"))
    assert not grammar.ended  # it may go on
    assert allowed(grammar, context) == {ord("b"), EOS, EOT}
    assert grammar.accept(ord("b"))
    assert grammar.ended
    grammar = gbnf(context, 'root ::= "a" "b"?')
    assert grammar.accept(ord("a"))
    assert grammar.accept(EOT)  # any end-of-generation token
    assert grammar.ended


@pytest.mark.inventory("G-01")
def test_a_token_may_span_several_terminals_and_rules(context: GrammarContext) -> None:
    source = 'root ::= x "o" (" w" | "!") y\nx ::= "He" [k-m]{2}\ny ::= "or" "ld"?'
    grammar = gbnf(context, source)
    assert allowed(grammar, context) == {ord("H"), HELLO}
    assert grammar.accept(HELLO)
    assert allowed(grammar, context) == {ord(" "), ord("!"), WORLD}
    assert grammar.accept(WORLD)
    assert grammar.ended
    assert not gbnf(context, 'root ::= "Hell" [^o]').accept(HELLO)


@pytest.mark.inventory("G-01")
@pytest.mark.parametrize("source", ['root ::= "€" | "é"', "root ::= [€é]", "root ::= .", "root ::= [^a]"])
def test_a_character_may_be_split_over_tokens(context: GrammarContext, source: str) -> None:
    for tokens in ([EURO_HEAD, EURO_TAIL], list("€".encode()), [EURO_HEAD, "€".encode()[2]], list("é".encode())):
        grammar = gbnf(context, source)
        for token in tokens:
            assert not grammar.ended
            assert EOS not in allowed(grammar, context)
            assert grammar.accept(token)
        assert grammar.ended


def test_half_a_character_cannot_go_on_as_another(context: GrammarContext) -> None:
    grammar = gbnf(context, 'root ::= "€" | "é"')
    assert grammar.accept("€".encode()[0])
    assert "é".encode()[1] not in allowed(grammar, context)
    assert not grammar.accept(ord("a"))


ENDLESS = [
    "root ::= root",
    "root ::= a\na ::= b\nb ::= a",
    'root ::= "x" root',  # no answer comes to its end, but every token is allowed: it runs into the limit
]


@pytest.mark.parametrize("source", ENDLESS)
def test_a_grammar_without_an_end(context: GrammarContext, source: str) -> None:
    try:
        grammar = gbnf(context, source)
    except RequestError:
        assert "x" not in source
    else:
        assert allowed(grammar, context) == {ord("x")}


def doubling(n: int) -> str:
    rules = "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(n))
    return f"root ::= r0\n{rules}r{n} ::= " + '"a"?\n'


TOO_MUCH: list[tuple[str, str]] = [
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


@pytest.mark.parametrize(("kind", "source"), TOO_MUCH, ids=range(len(TOO_MUCH)))
def test_what_asks_for_much_is_done_or_refused(context: GrammarContext, kind: str, source: str) -> None:
    """Within `budget.SECONDS`, or it is a 400; and every token is masked, or that is a 400, too."""
    random = np.random.default_rng(0)
    try:
        grammar = Compiler(kind, context).compile(source)
        for _ in range(20):
            row = random.standard_normal(context.n_vocab).astype(np.float32)
            grammar.mask(row)
            assert row.max() > -np.inf
            assert grammar.accept(int(row.argmax()))
            if grammar.ended:
                break
    except RequestError as refusal:
        refused = refusal.status
    else:
        refused = 400
    assert refused == 400


def test_many_ways_to_read_are_no_many_steps(context: GrammarContext) -> None:
    grammar = gbnf(context, 'root ::= "a" root root root | "b"')
    assert all(grammar.accept(ord("a")) for _ in range(30))


def test_long_chains_of_rules_do_not_end_the_process(context: GrammarContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """llguidance recurses; on a usual stack 3,000 rules were a segmentation fault."""
    monkeypatch.setattr(module, "_budget", Budget(seconds=60))
    n = 4000
    rules = "".join(f"r{i} ::= r{i + 1}\n" for i in range(n))
    assert gbnf(context, f"root ::= r0\n{rules}r{n} ::= " + '"a"').accept(ord("a"))
    names = {f"d{i}": {"items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(n)}
    schema = {"$ref": "#/$defs/d0", "$defs": {**names, f"d{n}": {"type": "null"}}}
    assert accepts(Compiler("json_schema", context), schema, [[[]]])


def test_comparing_branches_that_refer_to_themselves_ends(context: GrammarContext) -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}, "required": ["next"]}
    same = {"type": "object", "properties": {"next": {"$ref": "#/$defs/m"}}, "required": ["next"]}
    schema = {"oneOf": [{"$ref": "#/$defs/n"}, {"$ref": "#/$defs/m"}], "$defs": {"n": node, "m": same}}
    with pytest.raises(RequestError, match="may both be valid"):
        Compiler("json_schema", context).compile(json.dumps(schema))


def test_what_takes_too_long_is_given_up_and_holds_up_nobody() -> None:
    budget, go_on = Budget(seconds=0.05), threading.Event()
    for _ in range(N_THREADS):
        with pytest.raises(RequestError, match=r"not compiled within 0\.05 s"):
            budget.run(go_on.wait)
    with pytest.raises(Unavailable):
        budget.run(lambda: None)
    go_on.set()
    assert Budget().run(lambda: 5) == 5
    patient = Budget()
    with pytest.raises(ZeroDivisionError):
        patient.run(lambda: 1 // 0)
    assert [patient.run(lambda: 7) for _ in range(2 * N_THREADS)] == [7] * 2 * N_THREADS


def test_a_grammar_is_compiled_once(context: GrammarContext, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    original = Compiler._build

    def build(self: Compiler, source: str) -> Any:
        built.append(source)
        return original(self, source)

    monkeypatch.setattr(Compiler, "_build", build)
    compiler = Compiler("gbnf", context)
    first, second = (compiler.compile('root ::= "ab"') for _ in range(2))
    assert built == ['root ::= "ab"']
    assert first.accept(ord("a"))
    assert second.accept(ord("a"))  # each has a state of its own
    assert first.accept(ord("b"))
    assert not second.ended
    for i in range(module.REMEMBERED):
        compiler.compile(f'root ::= "{i}"')
    compiler.compile('root ::= "ab"')
    assert built[-1] == 'root ::= "ab"'  # forgotten meanwhile: the least recently used go first
