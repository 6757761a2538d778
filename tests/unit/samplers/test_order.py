"""The default order of samplers, including samplers of plugins, and `Candidates.find`."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafw import Candidates
from llamafw_plugins.samplers.order import DEFAULT_ORDER, default_order, with_last


def sampler(*fields: str, precedes: str | None = None) -> Any:
    """Return a sampler plugin with some options; their defaults are 0."""
    place = {"precedes": precedes} if precedes else {}
    return SimpleNamespace(options={field: {"type": "number", "default": 0} for field in fields}, **place)


def registered(**precedes: str | None) -> Any:
    """Return the built-in samplers and some of plugins; each has one option with the name of the sampler."""
    builtin = {name: sampler(name) for name in [*DEFAULT_ORDER, "adaptive_p", "infill", "mirostat"]}
    return builtin | {name: sampler(name, precedes=successor) for name, successor in precedes.items()}


@pytest.mark.inventory("M-06")
@pytest.mark.parametrize(
    ("others", "order"),
    [
        ({}, DEFAULT_ORDER),
        ({"smooth": None}, DEFAULT_ORDER),
        ({"after_mirostat": "mirostat"}, DEFAULT_ORDER),
        (
            {"b": "top_k", "smooth": None, "c": "top_k", "d": "temperature", "a": "b"},
            (*DEFAULT_ORDER[:3], "a", "b", "c", *DEFAULT_ORDER[3:-1], "d", "temperature"),
        ),
    ],
)
def test_default_order_with_plugins(others: dict[str, str | None], order: Sequence[str]) -> None:
    assert default_order(registered(**others), {}) == tuple(order)


def test_default_order_leaves_out_missing_samplers() -> None:
    samplers = registered()
    for name in ("dry", "top_n_sigma", "tfs_z", "xtc", "temperature"):
        del samplers[name]
    assert default_order(samplers, {}) == ("penalties", "top_k", "typ_p", "top_p", "min_p")


@pytest.mark.inventory("M-04", "M-06")
def test_adaptive_p_comes_last() -> None:
    """It is not one of the default samplers."""
    assert default_order(registered(), {"adaptive_p": 0.5}) == (*DEFAULT_ORDER, "adaptive_p")
    assert with_last(["adaptive_p", "top_k", "adaptive_p"]) == ("top_k", "adaptive_p")
    assert with_last(["top_k", "min_p"]) == ("top_k", "min_p")


def test_default_order_includes_samplers_with_a_changed_option() -> None:
    samplers = registered(smooth=None, other=None)
    before, last = DEFAULT_ORDER[:-1], DEFAULT_ORDER[-1]
    assert default_order(samplers, {"smooth": 0, "other": 0}) == DEFAULT_ORDER
    assert default_order(samplers, {"smooth": 0.5, "other": 0}) == (*before, "smooth", last)
    assert default_order(samplers, {"smooth": 0.5, "other": 1}) == (*before, "smooth", "other", last)


def test_a_changed_sampler_is_placed_where_precedes_says() -> None:
    samplers = registered() | {"first": sampler("first"), "a": sampler("a", precedes="first")}
    assert default_order(samplers, {"first": 1, "a": 1})[-3:] == ("a", "first", "temperature")
    samplers = registered() | {"a": sampler("a", precedes="first"), "first": sampler("first")}
    assert default_order(samplers, {"a": 1})[-2:] == ("a", "temperature")


def test_a_changed_sampler_comes_last_without_temperature() -> None:
    samplers = registered(smooth=None)
    del samplers["temperature"]
    assert default_order(samplers, {"smooth": 1})[-1] == "smooth"


def test_options_of_samplers_in_use_add_no_other_sampler() -> None:
    samplers = registered() | {"alias": sampler("top_k", "mirostat")}
    assert default_order(samplers, {"top_k": 3, "mirostat": 0, "mirostat_tau": 1}) == DEFAULT_ORDER


@given(
    ids=st.lists(st.integers(0, 30), min_size=1, unique=True),
    tokens=st.lists(st.integers(0, 30), unique=True),
    whole=st.booleans(),
)
def test_find_returns_the_indices_of_tokens(ids: list[int], tokens: list[int], whole: bool) -> None:
    ids = list(range(20)) if whole else ids
    candidates = Candidates(np.array(ids, np.int32), np.zeros(len(ids), np.float32))
    where, which = candidates.find(np.array(tokens, np.int32))
    assert sorted(zip(where.tolist(), which.tolist(), strict=True)) == [
        (i, tokens.index(id)) for i, id in enumerate(ids) if id in tokens
    ]
