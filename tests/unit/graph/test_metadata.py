"""Metadata: values of the right kind are returned, others are refused by the name of their key."""

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


HEADS = {"embedding_length": 64, "attention.head_count": 4}
PATTERN = "attention.sliding_window_pattern"


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


def test_heads_have_defaults() -> None:
    assert metadata(**HEADS).heads() == g.Heads(4, 4, 16, 16)
    keys = {"attention.head_count_kv": 2, "attention.key_length": 32}
    assert metadata(**HEADS | keys).heads() == g.Heads(4, 2, 32, 32)
    assert metadata(**HEADS | keys | {"attention.value_length": 8}).heads() == g.Heads(4, 2, 32, 8)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"attention.head_count_kv": 3}, "4 heads cannot be divided evenly among 3 KV heads"),
        ({"attention.value_length": -1}, "a.attention.value_length is -1; it must be a whole number from 1"),
        ({"attention.key_length": 0}, "a.attention.key_length is 0; it must be a whole number from 1"),
    ],
)
def test_heads_that_do_not_fit_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        metadata(**HEADS | keys).heads()
    assert message in str(caught.value)


def test_layers_with_heads_of_different_sizes_need_values_like_keys() -> None:
    assert metadata(**HEADS | {"attention.key_length_swa": 32}).head_size(4, "_swa") == 32
    with pytest.raises(ModelError, match=r"a\.attention\.value_length differs from the size of keys, 16"):
        metadata(**HEADS | {"attention.value_length": 8}).head_size(4)


def test_one_number_holds_for_all_layers() -> None:
    assert metadata(n_ff=7).integers("n_ff", 3) == [7, 7, 7]
    assert metadata(n_ff=np.array([5, 0, 7, 9])).integers("n_ff", 3) == [5, 0, 7]
    assert metadata().integers("n_ff", 2, 4) == [4, 4]


@pytest.mark.parametrize("value", [-1, True, "7", np.array([1, -1]), np.array([1.0, 2.0]), np.array([1])])
def test_other_values_per_layer_are_refused(value: Any) -> None:
    with pytest.raises(ModelError, match=r"a\.n_ff"):
        metadata(n_ff=value).integers("n_ff", 2)


@pytest.mark.parametrize(
    ("keys", "options", "expected"),
    [
        ({}, {}, [True, True, False, True, True, False, True]),
        ({}, {"dense_first": True}, [False, True, True, False, True, True, False]),
        ({PATTERN: 2}, {}, [True, False, True, False, True, False, True]),
        ({PATTERN: 1}, {}, [False] * 7),
        ({PATTERN: 0}, {}, [True] * 7),
        (
            {PATTERN: np.array([1, 0, 0, 1, 0, 0, 1, 1])},
            {},
            [True, False, False] * 2 + [True],
        ),
        ({PATTERN: np.array([True] * 7)}, {}, [True] * 7),
    ],
)
def test_windows_follow_the_pattern(keys: dict[str, Any], options: dict[str, bool], expected: list[bool]) -> None:
    assert metadata(**keys).windowed_layers(7, 3, **options) == expected


@pytest.mark.parametrize("value", [-1, "x", np.array([True, False]), np.array([2] * 7)])
def test_other_patterns_are_refused(value: Any) -> None:
    with pytest.raises(ModelError, match=r"a\.attention\.sliding_window_pattern"):
        metadata(**{PATTERN: value}).windowed_layers(7, 3)


def test_flags_are_true_or_false() -> None:
    assert metadata().flag("norm", True)
    assert not metadata(norm=False).flag("norm", True)
    with pytest.raises(ModelError, match=r"a\.norm is 1; it must be true or false"):
        metadata(norm=1).flag("norm", True)


def test_the_scale_of_scores_has_a_default() -> None:
    assert metadata().attention_scale(64) == metadata(**{"attention.scale": 0.0}).attention_scale(64) == 1 / 8
    assert metadata(**{"attention.scale": 0.5}).attention_scale(64) == 0.5
    with pytest.raises(ModelError, match=r"a\.attention\.scale is nan"):
        metadata(**{"attention.scale": float("nan")}).attention_scale(64)


def test_part_of_a_head_may_be_rotated() -> None:
    assert metadata().n_rotated(16) == 16
    assert metadata(**{"rope.dimension_count": 12}).n_rotated(16) == 12
    for n in (11, 18):
        with pytest.raises(ModelError, match=rf"a\.rope\.dimension_count is {n}; it must be even and at most"):
            metadata(**{"rope.dimension_count": n}).n_rotated(16)
