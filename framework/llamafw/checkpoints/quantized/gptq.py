"""GPTQ: integers of 2, 4 or 8 bits with a scale and a zero per group of columns (arXiv:2210.17323).

The layout is that of AutoGPTQ and GPTQModel, for a layer with ``n_in`` inputs and ``n_out`` outputs:

* ``qweight`` ``(n_in · bits / 32, n_out)`` int32: integers of adjacent inputs in one word, the lowest bits first
* ``qzeros`` ``(n_group, n_out · bits / 32)`` int32: zeros of adjacent outputs; minus one, unless ``checkpoint_format``
  is ``gptq_v2``
* ``scales`` ``(n_group, n_out)``
* ``g_idx`` ``(n_in,)`` int32: the group of each input; with ``desc_act``, not in order
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from llamafw.checkpoints.changes import Array
from llamafw.checkpoints.config import Config
from llamafw.checkpoints.quantized.values import (
    Integers,
    computed,
    groups_of,
    need,
    refuse,
    scale_groups,
    unpack_integers,
)
from llamafw.checkpoints.tensors import CheckpointTensor
from llamafw.types import Floats

_PARTS = (".qweight", ".qzeros", ".scales", ".g_idx")


def unpack_gptq(section: Config, tensors: Mapping[str, CheckpointTensor]) -> Mapping[str, CheckpointTensor]:
    """Return the weights of a checkpoint whose ``quant_method`` is ``gptq``."""
    section.require("bits", 2, 4, 8)
    section.require("checkpoint_format", "gptq", "gptq_v2", default="gptq")
    bits, group_size = section.integer("bits"), section.integer("group_size", default=-1, low=-1)
    offset = 0 if section.text("checkpoint_format", default="gptq") == "gptq_v2" else 1

    found: dict[str, CheckpointTensor] = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        if f"{layer}.qweight" not in tensors or f".{part}" not in _PARTS:
            found[name] = tensor
        elif part == "qweight":
            weight = _weight(layer, tensors, bits, group_size, offset)
            found[weight.name] = weight
    return found


def _weight(
    layer: str, tensors: Mapping[str, CheckpointTensor], bits: int, group_size: int, offset: int
) -> CheckpointTensor:
    packed = tensors[f"{layer}.qweight"]
    sources = [packed, *(need(tensors, f"{layer}.{part}", packed) for part in ("qzeros", "scales"))]
    if f"{layer}.g_idx" in tensors:
        sources.append(tensors[f"{layer}.g_idx"])
    if packed.dtype != np.int32 or sources[1].dtype != np.int32 or len(packed.shape) != 2:
        refuse(packed, f"has the type {packed.dtype} and the shape {packed.shape}; it must be a matrix of int32")
    n_in, n_out = packed.shape[0] * (32 // bits), packed.shape[1]

    def compute(qweight: Integers, qzeros: Integers, scales: Array, g_idx: Integers | None = None) -> Floats:
        groups = groups_of(n_in, group_size) if g_idx is None else g_idx
        return dequantize_gptq(qweight, qzeros, scales, groups, bits, offset)

    return computed(f"{layer}.weight", (n_out, n_in), sources, compute)


def dequantize_gptq(
    qweight: Integers, qzeros: Integers, scales: Array, groups: Integers, bits: int, offset: int
) -> Floats:
    """Return the weights of a layer, ``(n_out, n_in)`` float32.

    Parameters
    ----------
    qweight, qzeros, scales, groups : arrays
        As in the description of the module; ``groups`` is ``g_idx``.
    bits : int
        2, 4 or 8.
    offset : int
        What is added to zeros. A zero that becomes too large for its bits starts again at 0, as in AutoGPTQ.
    """
    integers = unpack_integers(qweight, bits, 0).T
    zeros = (unpack_integers(qzeros, bits, 1).astype(np.int32) + offset) & (2**bits - 1)
    return scale_groups(integers, zeros.T, scales.T, groups)
