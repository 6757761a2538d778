"""Dequantise the types that the `gguf` package cannot dequantise, independently of llamafw."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def q1_0(blocks: Bytes) -> Floats:
    """Return the weights of blocks of Q1_0, ``(n, 128)``: a bit is 1 for the scale, 0 for the scale times −1."""
    bits = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little")
    scales = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    return np.where(bits == 1, scales, -scales)


def two_bits(blocks: Bytes) -> Floats:
    """Return the weights of blocks of Q2_0, or of another type with a scale and four weights per byte.

    The bytes are moved into blocks of TQ2_0, which gguf dequantises. It has four groups of 32 weights in a block of 32
    bytes, so weight ``l`` of byte ``m`` becomes number ``32 l + m``.
    """
    n_bytes = blocks.shape[1] - 2
    moved = np.zeros((len(blocks), 66), np.uint8)
    moved[:, :n_bytes], moved[:, 64:] = blocks[:, 2:], blocks[:, :2]
    with np.errstate(all="ignore"):  # scales may be infinite
        weights: Floats = dequantize(moved, GGMLQuantizationType.TQ2_0).reshape(len(blocks), 2, 4, 32)
    return np.ascontiguousarray(weights[:, 0, :, :n_bytes].transpose(0, 2, 1)).reshape(len(blocks), -1)


REFERENCES: dict[str, Callable[[Bytes], Floats]] = {"Q1_0": q1_0, "Q2_0": two_bits}
"""By the name of the type: a function of blocks, ``(n_blocks, type_size)``, that returns ``(n_blocks, block_size)``."""
