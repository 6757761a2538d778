"""AWQ: integers of 4 bits with a scale and a zero per group of inputs (arXiv:2306.00978), as AutoAWQ's ``gemm`` layout.

For a layer with ``n_in`` inputs and ``n_out`` outputs:

* ``qweight`` ``(n_in, n_out / 8)`` int32: integers of eight outputs in one word
* ``qzeros`` ``(n_group, n_out / 8)`` int32
* ``scales`` ``(n_group, n_out)``

From the lowest bits on, a word has the outputs 0, 2, 4, 6, 1, 3, 5, 7.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

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

_ORDER = np.array([0, 2, 4, 6, 1, 3, 5, 7])
_PARTS = ("qweight", "qzeros", "scales")
_BITS = 4


def unpack_awq(section: Config, tensors: Mapping[str, CheckpointTensor]) -> Mapping[str, CheckpointTensor]:
    """Return the weights of a checkpoint whose ``quant_method`` is ``awq``."""
    section.require("bits" if section.has("bits") else "w_bit", _BITS)
    version = section.text("version", default="gemm")
    if version.lower() != "gemm":
        section.fail("version", f"is {version!r}, which is not supported; only 'gemm' is")
    group_size = section.integer("group_size", "q_group_size", default=-1, low=-1)

    found: dict[str, CheckpointTensor] = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        if f"{layer}.qweight" not in tensors or part not in _PARTS:
            found[name] = tensor
        elif part == "qweight":
            found[f"{layer}.weight"] = _weight(layer, tensors, group_size)
    return found


def _weight(layer: str, tensors: Mapping[str, CheckpointTensor], group_size: int) -> CheckpointTensor:
    packed = tensors[f"{layer}.qweight"]
    sources = [packed, *(need(tensors, f"{layer}.{part}", packed) for part in _PARTS[1:])]
    if packed.dtype != np.int32 or sources[1].dtype != np.int32 or len(packed.shape) != 2:
        refuse(packed, f"has the type {packed.dtype} and the shape {packed.shape}; it must be a matrix of int32")
    n_in, n_out = packed.shape[0], packed.shape[1] * 8

    def compute(qweight: Integers, qzeros: Integers, scales: Array) -> Floats:
        return dequantize_awq(qweight, qzeros, scales, groups_of(n_in, group_size))

    return computed(f"{layer}.weight", (n_out, n_in), sources, compute)


def dequantize_awq(qweight: Integers, qzeros: Integers, scales: Array, groups: Integers) -> Floats:
    """Return the weights of a layer, ``(n_out, n_in)`` float32.

    Parameters
    ----------
    qweight, qzeros, scales : arrays
        As in the description of the module.
    groups : (n_in,) integers
        The group of each input.
    """
    return scale_groups(_unpack(qweight).T, _unpack(qzeros).T, scales.T, groups)


def _unpack(words: Integers) -> npt.NDArray[np.uint8]:
    """Return the integers of words, ``(m, 8 n)`` from ``(m, n)``, in the order of outputs."""
    values = unpack_integers(words, _BITS, 1).reshape(len(words), -1, 8)
    ordered = np.empty_like(values)
    ordered[..., _ORDER] = values
    return ordered.reshape(len(words), -1)
