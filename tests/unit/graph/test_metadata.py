"""Metadata with one value per layer, and the sizes that blocks read from it."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g
from llamafw import Model, ModelError

SSM = {
    "ssm.time_step_rank": 6,
    "ssm.group_count": 2,
    "ssm.inner_size": 96,
    "ssm.state_size": 32,
    "ssm.conv_kernel": 4,
}


def metadata(**keys: Any) -> g.Metadata:
    """Return the metadata of a model with the given keys."""
    named = {f"a.{key}": value for key, value in keys.items()}
    return g.Metadata(Model(Path("m.gguf"), MappingProxyType(named), MappingProxyType({}), 0), "a")


@pytest.mark.parametrize("value", [np.array([True, False, True]), np.array([1, 0, 1], np.uint32)])
def test_flags_are_one_per_layer(value: Any) -> None:
    assert metadata(flags=value).flags("flags", 3) == [True, False, True]
    assert metadata(flags=value).flags("flags", 2) == [True, False]


@pytest.mark.parametrize("value", [np.array([True, False]), np.array([0, 1, 2]), np.array(["a", "b", "c"]), True])
def test_invalid_flags_are_refused(value: Any) -> None:
    with pytest.raises(ModelError, match=r"a\.flags is .* one value per layer, true or false, for 3 layers"):
        metadata(flags=value).flags("flags", 3)


def test_layer_count_leaves_out_the_blocks_that_predict_more_tokens() -> None:
    w = g.Parameters({f"blk.{i}.attn_norm.weight": (2,) for i in range(4)})
    assert g.layer_count(metadata(block_count=4), w) == 4
    assert len(w.unused()) == 4
    assert g.layer_count(metadata(block_count=4, nextn_predict_layers=1), w) == 3
    assert w.unused() == [f"blk.{i}.attn_norm.weight" for i in range(3)]


def test_a_model_of_predicting_blocks_alone_is_refused() -> None:
    with pytest.raises(ModelError, match=r"a\.nextn_predict_layers is 2; there are 2 blocks"):
        g.layer_count(metadata(block_count=2, nextn_predict_layers=2), g.Parameters({}))


def test_state_sizes_divide_the_values_among_heads() -> None:
    sizes = g.state_sizes(metadata(**SSM))
    assert sizes == g.StateSizes(n_head=6, size=16, n_group=2, n_state=32, kernel=4)
    assert (sizes.n_inner, sizes.n_keys) == (96, 64)


@pytest.mark.parametrize(("key", "value"), [("ssm.inner_size", 100), ("ssm.group_count", 4)])
def test_state_sizes_that_do_not_fit_are_refused(key: str, value: int) -> None:
    with pytest.raises(ModelError, match=f"a.{key} is {value}"):
        g.state_sizes(metadata(**SSM | {key: value}))
