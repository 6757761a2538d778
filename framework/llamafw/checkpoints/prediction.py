"""The names of tensors of blocks for multi-token prediction; see `llamafw.graph.prediction`."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace

from llamafw.checkpoints.changes import Change
from llamafw.checkpoints.rules import Rule, rule

NEXTN = "nextn_predict_layers"
"""GGUF's key with the number of such blocks, which are part of ``block_count``."""


def prediction_layers() -> list[Rule]:
    """Return the rules for blocks that follow the layers as further ones, as in DeepSeek-V3 and GLM-4.5."""
    layer = "model.layers.{i}"
    names = {
        "eh_proj": "eh_proj",
        "enorm": "enorm",
        "hnorm": "hnorm",
        "embed_tokens": "embed_tokens",
        "shared_head_norm": "shared_head.norm",
        "shared_head_head": "shared_head.head",
    }
    return [rule(f"blk.{{i}}.nextn.{role}.weight", f"{layer}.{name}.weight") for role, name in names.items()]


def prediction_module(n_layer: int, layers: Sequence[Rule], *norm_changes: Change) -> list[Rule]:
    """Return the rules for a block of its own, ``mtp.``, as in Qwen3-Next and Qwen3.5.

    They must come before the rules for layers.

    Parameters
    ----------
    n_layer : int
        Number of the model's layers.
    layers : sequence of Rule
        The rules for a layer, whose names begin with ``model.layers.{i}.`` in checkpoints.
    *norm_changes : Change
        What is done with the weights of norms.
    """
    norms = {"enorm": "pre_fc_norm_embedding", "hnorm": "pre_fc_norm_hidden", "shared_head_norm": "norm"}
    rest = {"eh_proj": "fc", "embed_tokens": "embed_tokens"}
    block = f"blk.{n_layer}"
    rules = [rule(f"{block}.nextn.{role}.weight", f"mtp.{name}.weight", *norm_changes) for role, name in norms.items()]
    rules += [rule(f"{block}.nextn.{role}.weight", f"mtp.{name}.weight") for role, name in rest.items()]
    for one in layers:
        targets = tuple(target.replace("blk.{i}", block) for target in one.targets)
        sources = tuple(source.replace("model.layers.{i}", "mtp.layers.0") for source in one.sources)
        rules.append(replace(one, targets=targets, sources=sources))
    return rules


def count_predictions(names: Container[str], n_layer: int) -> int:
    """Return how many blocks follow the layers, given the names of the tensors in a GGUF file."""
    n = 0
    while f"blk.{n_layer + n}.nextn.eh_proj.weight" in names:
        n += 1
    return n
