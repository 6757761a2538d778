"""Whatever random scores say under a random schema is valid; whatever is not enforced is refused."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from llamafw import GrammarContext, RequestError
from llamafw_plugins.grammars.compiler import Compiler
from support.json_schema import accepts_text
from support.schemas import Adversary, check, forged, say, schemas

N_SCHEMAS = int(os.environ.get("LLAMAFW_SCHEMAS", "2000"))
"""More of them for a longer run."""
seen: Counter[str] = Counter()


@pytest.mark.inventory("G-02", "G-03", "E-033", "J-02")
@settings(max_examples=N_SCHEMAS, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=schemas(), seed=st.integers(0, 2**32 - 1))
def test_nothing_said_is_invalid(context: GrammarContext, schema: dict[str, Any], seed: int) -> None:
    compiler = Compiler("json_schema", context)
    try:
        compiler.compile(json.dumps(schema))
    except RequestError:
        seen["refused"] += 1
        return
    for again in range(4):
        adversary = Adversary(schema, seed + again)
        text = say(compiler.compile(json.dumps(schema)), adversary.row, context.tokenizer.piece, context.tokenizer.eog)
        seen["unfinished" if text is None else "valid"] += 1
        if text is not None:
            note(f"{json.dumps(schema)} allowed {text!r}")
            value = check(schema, text)
            for _ in range(8):
                other = forged(value, schema, adversary.random)
                if accepts_text(compiler, json.dumps(schema), other):
                    seen["forged"] += 1
                    note(f"{json.dumps(schema)} allowed {other!r}")
                    check(schema, other.encode())


def test_most_of_them_were_enforced_to_the_end() -> None:
    assert seen["valid"] > 2 * N_SCHEMAS
    assert seen["unfinished"] < seen["valid"] / 4
