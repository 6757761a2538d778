"""compressed-tensors: the format of llm-compressor (https://github.com/vllm-project/compressed-tensors).

``config_groups`` say for which layers weights are quantised, and how. Formats of a group's weights:

* ``pack-quantized``: ``weight_packed`` ``(n_out, ⌈n_in / k⌉)`` int32 has k = ⌊32 / bits⌋ integers in a word, the lowest
  bits first, each plus 2^(bits - 1); ``weight_shape`` is (n_out, n_in)
* ``int-quantized``: ``weight`` int8
* ``float-quantized``: ``weight`` in FP8
* ``naive-quantized``: one of the last two

``weight_scale`` has one number per tensor, row (channel), group of columns, or block; ``weight_zero_point`` as many,
packed along the rows in ``pack-quantized``. With ``weight_g_idx``, columns are not in the order of their groups.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llamafw.checkpoints.changes import Array
from llamafw.checkpoints.config import Config
from llamafw.checkpoints.quantized.fp8 import ACTIVATION_SCALES, FP8, read_block
from llamafw.checkpoints.quantized.values import (
    Integers,
    computed,
    groups_of,
    need,
    refuse,
    scale_groups,
    scale_weights,
    unpack_integers,
)
from llamafw.checkpoints.tensors import CheckpointTensor
from llamafw.types import Floats

_PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")
_FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "dense")
_STRATEGIES = ("tensor", "channel", "group", "block")


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the weights of some layers are quantised."""

    targets: tuple[str, ...]  # names of layers, ``re:`` and a regular expression, or names of classes
    bits: int
    strategy: str
    group_size: int  # columns; -1: all
    block: Sequence[int] | None  # rows and columns

    def precision(self, layer: str) -> int:
        """Return 0 if the scheme is not for a layer, 1 if it is by the class of layers, 2 if it names the layer."""
        for target in self.targets:
            if re.match(target[3:], layer) if target.startswith("re:") else target == layer:
                return 2
        # Which class a layer has is not in the checkpoint; quantised layers are linear.
        return int(any(not target.startswith("re:") and "." not in target for target in self.targets))


def unpack_compressed_tensors(
    section: Config, tensors: Mapping[str, CheckpointTensor]
) -> Mapping[str, CheckpointTensor]:
    """Return the weights of a checkpoint whose ``quant_method`` is ``compressed-tensors``."""
    section.require("format", *_FORMATS, default="dense")
    section.section("sparsity_config").require("format", "dense", default="dense")
    groups = section.section("config_groups")
    schemes = [_read_scheme(groups.section(name)) for name in groups.values]

    found: dict[str, CheckpointTensor] = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        is_packed = part == "weight_packed"
        if is_packed or (part == "weight" and f"{layer}.weight_scale" in tensors):
            scheme = max(schemes, key=lambda one: one.precision(layer), default=None)
            if scheme is None or not scheme.precision(layer):
                refuse(tensor, "is quantised, but no group in config_groups is for it")
            found[f"{layer}.weight"] = _weight(layer, tensor, tensors, scheme)
        elif tensor.dtype.name in FP8:
            refuse(tensor, "is in FP8 and has no scale")
        elif part not in _PARTS and not name.endswith(ACTIVATION_SCALES):
            found[name] = tensor
    return found


def _read_scheme(group: Config) -> Scheme:
    group.require("format", *_FORMATS, None)
    weights = group.section("weights")
    weights.require("type", "int", "float", default="int")
    block = read_block(weights, "block_structure")
    weights.require("num_bits", 1, 2, 4, 8)  # others are packed in two ways, by the version of the package
    bits = weights.integer("num_bits")
    group_size = weights.integer("group_size", default=-1, low=-1)
    default = "block" if block else "group" if group_size > 0 else "channel" if group_size == -1 else "tensor"
    weights.require("strategy", *_STRATEGIES, None)
    strategy = weights.text("strategy", default=default)
    if strategy == "block" and block is None:
        weights.fail("block_structure", "is missing, but strategy is 'block'")
    targets = tuple(str(target) for target in group.list("targets", default=("Linear",)))
    return Scheme(targets, bits, strategy, group_size, block)


def _weight(
    layer: str, tensor: CheckpointTensor, tensors: Mapping[str, CheckpointTensor], scheme: Scheme
) -> CheckpointTensor:
    """Return the weight of a layer."""
    sources = {"weight": tensor, "scale": need(tensors, f"{layer}.weight_scale", tensor)}
    for key in ("zero_point", "g_idx"):
        if f"{layer}.weight_{key}" in tensors:
            sources[key] = tensors[f"{layer}.weight_{key}"]
    is_packed = tensor.name.endswith("_packed")
    shape = tensor.shape
    if is_packed:
        stored = need(tensors, f"{layer}.weight_shape", tensor).read()
        shape = tuple(int(n) for n in stored.reshape(-1))
        if tensor.dtype != np.int32 or len(shape) != 2 or len(tensor.shape) != 2:
            refuse(tensor, f"has the type {tensor.dtype} and the shape {tensor.shape}; it must be a matrix of int32")
    elif tensor.dtype.name not in (*FP8, "int8"):
        refuse(tensor, f"has a scale and the type {tensor.dtype}; only int8 and FP8 are supported")

    def compute(*arrays: Array) -> Floats:
        parts = dict(zip(sources, arrays, strict=True))
        if is_packed:
            parts["weight"] = _signed(parts["weight"], scheme.bits, 1, shape[1])
            if "zero_point" in parts and parts["zero_point"].dtype == np.int32:
                parts["zero_point"] = _signed(parts["zero_point"], scheme.bits, 0, shape[0])
        return dequantize(scheme, parts["weight"], parts["scale"], parts.get("zero_point"), parts.get("g_idx"))

    return computed(f"{layer}.weight", shape, list(sources.values()), compute)


def dequantize(
    scheme: Scheme, weights: Array, scales: Array, zeros: Array | None = None, g_idx: Integers | None = None
) -> Floats:
    """Return the weights of a layer, ``(n_out, n_in)`` float32.

    Parameters
    ----------
    scheme : Scheme
        How they are quantised.
    weights : (n_out, n_in) int8, float8_e4m3fn or float8_e5m2
        The quantised weights.
    scales, zeros : arrays
        As many as the scheme says.
    g_idx : (n_in,) int32, optional
        The group of each column; -1: in order.
    """
    if scheme.strategy == "group":
        if g_idx is None or (g_idx < 0).any():
            g_idx = groups_of(weights.shape[-1], scheme.group_size)
        return scale_groups(weights, zeros, scales, g_idx)
    block = scheme.block if scheme.strategy == "block" else None
    if zeros is not None and zeros.any():
        ones = np.ones_like(weights, dtype=np.float32)
        weights = weights.astype(np.float32) - scale_weights(ones, zeros, block)
    return scale_weights(weights, scales, block)


def _signed(words: Integers, bits: int, axis: int, n: int) -> Integers:
    """Return ``n`` signed integers along an axis of packed words."""
    values = unpack_integers(words, bits, axis)
    if values.shape[axis] < n:
        raise ValueError(f"there are {values.shape[axis]} integers, but {n} are needed")
    values = values[:, :n] if axis else values[:n]
    return values.astype(np.int16) - np.int16(2 ** (bits - 1))
