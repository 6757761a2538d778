"""Checkpoints with a missing tensor, a surplus tensor or an unsupported key: each is refused by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g
from checkpoints import Checkpoint, all_checkpoints, tensors
from llamafw import Model, ModelError, Tensor
from llamafw.plugins import Plugins

CHECKPOINTS = list(all_checkpoints())
ARCHITECTURES = sorted({one.architecture for one in CHECKPOINTS})
REFUSED = [pytest.param(one, key, id=f"{one.name}-{key}") for one in CHECKPOINTS for key in one.refused]
FUSED = {
    "attn_qkv": "attn_q",
    "attn_kv_b": "attn_k_b",
    "gate_up_exps": "gate_exps",
    "ssm_in": "attn_qkv",
    "ssm_ba": "ssm_beta",
}
"""Without a fused tensor the first of the separate ones is missing."""

ANY_NUMBER_OF_ROWS = ("token_embd.weight", "output.weight", "output.bias", "token_types.weight")

SURPLUS = ("blk.0.attn_extra.weight", "blk.0.attn_output.extra", "extra.weight")

each_checkpoint = pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda one: one.name)


@cache
def registry() -> Mapping[str, Any]:
    return Plugins().registry("architecture")


def build(model: Model) -> g.Graph:
    graph: g.Graph = registry()[model.metadata["general.architecture"]](model)
    return graph


def model_of(checkpoint: Checkpoint) -> Model:
    """Return the checkpoint as an open model."""
    arrays = {key: np.array(value) for key, value in checkpoint.metadata.items() if isinstance(value, list)}
    metadata = {"general.architecture": checkpoint.architecture, **checkpoint.metadata, **arrays}
    found = {
        name: Tensor(name, array.shape, "F32", array.reshape(-1).view(np.uint8))
        for name, array in tensors(checkpoint).items()
    }
    n_bytes = sum(tensor.data.nbytes for tensor in found.values())
    return Model(Path("model.gguf"), MappingProxyType(metadata), MappingProxyType(found), n_bytes)


def names_to_damage(checkpoint: Checkpoint, except_for: tuple[str, ...] = ()) -> list[str]:
    """Return the names of the tensors that the graph uses: of the first ten layers, and those outside of layers."""
    names = [name for name in checkpoint.shapes if not name.startswith("blk.") or name.split(".")[1] in "0123456789"]
    return [name for name in names if not any(fnmatch(name, one) for one in (*checkpoint.skipped, *except_for))]


@each_checkpoint
def test_the_undamaged_checkpoint_is_accepted(checkpoint: Checkpoint) -> None:
    assert build(model_of(checkpoint)).hidden.shape == (checkpoint.key("embedding_length"),)


@each_checkpoint
def test_a_missing_tensor_is_refused_by_name(checkpoint: Checkpoint) -> None:
    model = model_of(checkpoint)
    required = names_to_damage(checkpoint, checkpoint.optional)
    assert required
    for name in required:
        tensors = {other: tensor for other, tensor in model.tensors.items() if other != name}
        with pytest.raises(ModelError) as caught:
            build(replace(model, tensors=MappingProxyType(tensors)))
        named = [name, *(name.replace(fused, first) for fused, first in FUSED.items())]
        assert any(f"the tensor {one!r} is missing" in str(caught.value) for one in named)


@each_checkpoint
def test_a_surplus_tensor_is_refused_by_name(checkpoint: Checkpoint) -> None:
    model = model_of(checkpoint)
    for name in SURPLUS:
        extra = Tensor(name, (2,), "F32", np.zeros(8, np.uint8))
        with pytest.raises(ModelError, match=f"the tensor '{name}' is not part of the {checkpoint.architecture} arch"):
            build(replace(model, tensors=MappingProxyType({**model.tensors, name: extra})))


@each_checkpoint
def test_a_tensor_of_another_shape_is_refused_by_name(checkpoint: Checkpoint) -> None:
    model = model_of(checkpoint)
    for name in names_to_damage(checkpoint):
        shape = model.tensors[name].shape
        for other in ((*shape, 2), shape[:-1], (shape[0] - 1, *shape[1:]), (*shape[:-1], shape[-1] + 1)):
            if name in ANY_NUMBER_OF_ROWS and other[1:] == shape[1:]:
                continue  # the file decides how many tokens there are
            if name.endswith(".scale") and other == ():
                continue  # a single number, in its other form
            damaged = replace(model.tensors[name], shape=other)
            with pytest.raises(ModelError, match=name):
                build(replace(model, tensors=MappingProxyType({**model.tensors, name: damaged})))


@pytest.mark.parametrize(("checkpoint", "key"), REFUSED)
def test_an_unsupported_key_is_refused_by_name(checkpoint: Checkpoint, key: str) -> None:
    model = model_of(checkpoint)
    with pytest.raises(ModelError, match=key):
        build(replace(model, metadata=MappingProxyType({**model.metadata, key: checkpoint.refused[key]})))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_architecture_refuses_some_key(architecture: str) -> None:
    assert any(one.refused for one in CHECKPOINTS if one.architecture == architecture)
