"""The default order of samplers, with those of plugins; `Candidates.find`."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafw import Candidates
from llamafw_plugins.samplers.order import DEFAULT_ORDER, default_order


def registered(**precedes: str | None) -> Any:
    own = dict.fromkeys([*DEFAULT_ORDER, "mirostat"], SimpleNamespace())
    return own | {name: SimpleNamespace(**({"precedes": at} if at else {})) for name, at in precedes.items()}


@pytest.mark.inventory("M-06")
@pytest.mark.parametrize(
    ("others", "order"),
    [
        ({}, DEFAULT_ORDER),
        ({"smooth": None}, DEFAULT_ORDER),
        ({"after_mirostat": "mirostat"}, DEFAULT_ORDER),
        (
            {"dry": "top_k", "smooth": None, "top_n_sigma": "top_k", "xtc": "temperature", "a": "dry"},
            ("penalties", "a", "dry", "top_n_sigma", "top_k", "tfs_z", "typ_p", "top_p", "min_p", "xtc", "temperature"),
        ),
    ],
)
def test_default_order_with_plugins(others: dict[str, str | None], order: Sequence[str]) -> None:
    assert default_order(registered(**others)) == tuple(order)


def test_default_order_leaves_out_missing_samplers() -> None:
    samplers = registered(xtc="temperature")
    del samplers["tfs_z"], samplers["temperature"]
    assert default_order(samplers) == ("penalties", "top_k", "typ_p", "top_p", "min_p")


@given(
    ids=st.lists(st.integers(0, 30), min_size=1, unique=True),
    tokens=st.lists(st.integers(0, 30), unique=True),
    whole=st.booleans(),
)
def test_find_tokens_among_candidates(ids: list[int], tokens: list[int], whole: bool) -> None:
    ids = list(range(20)) if whole else ids
    candidates = Candidates(np.array(ids, np.int32), np.zeros(len(ids), np.float32))
    where, which = candidates.find(np.array(tokens, np.int32))
    assert sorted(zip(where.tolist(), which.tolist(), strict=True)) == [
        (i, tokens.index(id)) for i, id in enumerate(ids) if id in tokens
    ]
