"""Random responses under random schemas are valid, or the schema is refused."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from llamafw import GrammarContext, RequestError
from llamafw_plugins.grammars.compiler import LlguidanceCompiler
from support.json_schema import accepts_text
from support.schemas import AdversarialLogits, alter_json, generate, parse_and_validate, schemas

pytestmark = pytest.mark.slow

N_SCHEMAS = int(os.environ.get("LLAMAFW_SCHEMAS", "2000"))
"""Number of schemas; the environment variable allows longer runs."""


@pytest.mark.inventory("G-02", "G-03", "E-033", "J-02")
def test_no_response_is_invalid(context: GrammarContext) -> None:
    """Neither generated responses nor altered ones that the grammar allows are invalid."""
    outcomes: Counter[str] = Counter()

    @settings(max_examples=N_SCHEMAS, deadline=None, suppress_health_check=list(HealthCheck))
    @given(schema=schemas(), seed=st.integers(0, 2**32 - 1))
    def check(schema: dict[str, Any], seed: int) -> None:
        outcomes.update(check_responses(context, schema, seed))

    check()
    assert outcomes["valid"] > 2 * N_SCHEMAS
    assert outcomes["incomplete"] < outcomes["valid"] / 4
    assert outcomes["altered"]


def check_responses(context: GrammarContext, schema: dict[str, Any], seed: int) -> Counter[str]:
    """Validate responses under one schema; return how many of each outcome there were."""
    outcomes: Counter[str] = Counter()
    source, tokenizer = json.dumps(schema), context.tokenizer
    compiler = LlguidanceCompiler("json_schema", context)
    try:
        compiler.compile(source)
    except RequestError:
        return Counter(["refused"])

    for offset in range(4):
        adversary = AdversarialLogits(schema, seed + offset)
        text = generate(compiler.compile(source), adversary.row, tokenizer.piece, tokenizer.eog)
        outcomes["incomplete" if text is None else "valid"] += 1
        if text is None:
            continue
        note(f"{source} allowed {text!r}")
        value = parse_and_validate(schema, text)

        for _ in range(8):
            altered = alter_json(value, schema, adversary.random)
            if accepts_text(compiler, source, altered):
                outcomes["altered"] += 1
                note(f"{source} allowed {altered!r}")
                parse_and_validate(schema, altered.encode())
    return outcomes
