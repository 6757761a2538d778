"""The tensor types of ggml: their numbers in files, their sizes, exact conversion to float32, and rounding to them.

This module converts unquantised types, Q1_0 and Q2_0. The `gguf` package, the reference, converts the others; it is
imported when it is first used, because that is slow. Types that nothing converts are listed too, so that errors can
name them. The package also rounds weights to some types; `k_quants` rounds to the others. For the layouts, see
``ggml-common.h`` of https://github.com/ggml-org/ggml.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llamafw import Bytes, Floats, ModelError

_PLAIN = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
"""Types that numpy can read. F64, I32 and I64 are rounded to the nearest float32."""

_NUMBERS_PER_BYTE = {"Q1_0": 8, "Q2_0": 4}
"""Types whose weights are ± a scale, and −1, 0, 1 or 2 times a scale."""

CHUNK = 2**17  # weights converted at once; the `gguf` package converts 16 rows, which is slow if they are short


@dataclass(frozen=True, slots=True)
class GgmlType:
    """A tensor type of ggml.

    Implements `llamafw.Quant`.
    """

    name: str
    type_id: int  # in GGUF files
    block_size: int  # weights per block
    type_size: int  # bytes per block

    def dequantize(self, data: Bytes, shape: Sequence[int]) -> Floats:
        """Return the weights as a new array, float32 of ``shape``.

        Parameters
        ----------
        data : (n_bytes,) uint8
            Whole blocks, row by row.
        shape : sequence of int
            Outermost dimension first.

        Raises
        ------
        ModelError
            The data do not have the size of the shape, or the installed `gguf` package cannot convert this type.
        """
        n = math.prod(shape)
        if data.size != n // self.block_size * self.type_size or n % self.block_size:
            raise ModelError(f"a {self.name} tensor of shape {tuple(shape)} cannot have {data.size} bytes")
        if self.name == "BF16":  # the upper half of a float32
            return (data.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
        if self.name in _PLAIN:
            return data.view(_PLAIN[self.name]).astype(np.float32).reshape(shape)
        if self.name in _NUMBERS_PER_BYTE:
            return self._dequantize_bits(data).reshape(shape)
        return self._dequantize_blocks(data, n).reshape(shape)

    def _dequantize_bits(self, data: Bytes) -> Floats:
        """Return weights of types that the `gguf` package cannot convert.

        A block has a float16 scale, and bytes with 4 or 8 numbers each, the first in the lowest bits.
        """
        blocks, n = data.reshape(-1, self.type_size), _NUMBERS_PER_BYTE[self.name]
        n_bits = 8 // n
        numbers = blocks[:, 2:, None] >> np.arange(0, 8, n_bits, dtype=np.uint8) & np.uint8(2**n_bits - 1)
        factors = numbers.reshape(-1, self.block_size).astype(np.float32) * np.float32(2 if n_bits == 1 else 1) - 1
        scales = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
        with np.errstate(invalid="ignore"):  # a scale may be infinite
            weights: Floats = factors * scales
        return weights

    def _dequantize_blocks(self, data: Bytes, n: int) -> Floats:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        weights = np.empty(n, np.float32)
        blocks = data.reshape(-1, self.type_size)
        step = CHUNK // self.block_size
        try:
            type_id = GGMLQuantizationType(self.type_id)
            with np.errstate(all="ignore"):  # blocks may hold infinities
                for i in range(0, len(blocks), step):
                    part = dequantize(blocks[i : i + step].reshape(1, -1), type_id)
                    weights[i * self.block_size :][: part.size] = part[0]
        except (NotImplementedError, ValueError) as exc:  # the package does not convert or does not know the type
            raise ModelError(f"tensors of type {self.name} cannot be unpacked by the installed gguf package") from exc
        return weights


@dataclass(frozen=True, slots=True)
class RoundingType(GgmlType):
    """A tensor type of ggml that weights can be rounded to.

    Implements `llamafw.Quantizer`.
    """

    def quantize(self, values: Floats, importance: Floats | None = None) -> Bytes:
        """Return the weights as blocks of this type.

        Without importance, types that the `gguf` package can round to get its result. For all others, scales are
        searched for that minimise a weighted squared error.

        Parameters
        ----------
        values : (n_rows, n_columns) float32
            The weights, finite; rows are whole blocks.
        importance : (n_columns,) float32, optional
            How much errors in each column matter, in relation to the others. Float types, Q8_0, MXFP4, TQ1_0 and TQ2_0
            do not depend on it: their scales follow from the largest weights.

        Returns
        -------
        (n_rows, n_columns // block_size * type_size) uint8

        Raises
        ------
        ModelError
            The arrays do not have these shapes.
        """
        if values.ndim != 2 or values.shape[1] % self.block_size:
            raise ModelError(f"weights of shape {values.shape} cannot be rounded to {self.name}")
        if importance is not None and importance.shape != values.shape[1:]:
            raise ModelError(f"importance of shape {importance.shape} does not fit weights of shape {values.shape}")
        out = np.empty((len(values), values.shape[1] // self.block_size * self.type_size), np.uint8)
        step = max(CHUNK // max(values.shape[1], 1), 1)
        relative = None if importance is None else _relative(importance)
        for i in range(0, len(values), step):
            part = np.ascontiguousarray(values[i : i + step], np.float32)
            out[i : i + step] = self._round(part, relative).reshape(len(part), -1)
        return out

    def _round(self, values: Floats, importance: Floats | None) -> Bytes:
        if self.name in _SEARCHED or (importance is not None and self.name in _SEARCHED_WITH_IMPORTANCE):
            from llamafw_plugins.quants import k_quants

            blocks = values.reshape(-1, self.block_size)
            # large weights matter more, because they are multiplied with large activations more often
            with np.errstate(over="ignore"):
                factors = np.sqrt(np.square(blocks) + np.square(blocks).mean(1, keepdims=True))
            if importance is not None:
                factors = (factors.reshape(values.shape) * importance).reshape(blocks.shape)
            with np.errstate(over="ignore", invalid="ignore"):  # weights that are too large become infinite
                rounded: Bytes = getattr(k_quants, self.name.lower())(blocks, factors)
            return rounded

        from gguf import GGMLQuantizationType
        from gguf.quants import quantize

        with np.errstate(over="ignore"):  # numbers that are too large become infinite
            packed: Bytes = quantize(values, GGMLQuantizationType(self.type_id)).view(np.uint8)
        return packed


def _relative(importance: Floats) -> Floats:
    """Return importance in relation to its mean; no column is without any, because its scale could be anything."""
    mean = importance.mean(dtype=np.float64)
    if mean <= 0:
        return np.ones_like(importance)
    relative: Floats = (importance / mean + 1e-6).astype(np.float32)
    return relative


_SEARCHED = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")
_SEARCHED_WITH_IMPORTANCE = ("Q4_0", "Q4_1", "Q5_0", "Q5_1")
_ROUNDED_BY_GGUF = (*_SEARCHED_WITH_IMPORTANCE, "F32", "F16", "BF16", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4")

TYPES = tuple(
    (RoundingType if row[0] in (*_SEARCHED, *_ROUNDED_BY_GGUF) else GgmlType)(*row)
    for row in (
        # name, number in GGUF files, weights per block, bytes per block
        ("F32", 0, 1, 4),
        ("F16", 1, 1, 2),
        ("Q4_0", 2, 32, 18),
        ("Q4_1", 3, 32, 20),
        ("Q5_0", 6, 32, 22),
        ("Q5_1", 7, 32, 24),
        ("Q8_0", 8, 32, 34),
        ("Q8_1", 9, 32, 40),
        ("Q2_K", 10, 256, 84),
        ("Q3_K", 11, 256, 110),
        ("Q4_K", 12, 256, 144),
        ("Q5_K", 13, 256, 176),
        ("Q6_K", 14, 256, 210),
        ("Q8_K", 15, 256, 292),
        ("IQ2_XXS", 16, 256, 66),
        ("IQ2_XS", 17, 256, 74),
        ("IQ3_XXS", 18, 256, 98),
        ("IQ1_S", 19, 256, 50),
        ("IQ4_NL", 20, 32, 18),
        ("IQ3_S", 21, 256, 110),
        ("IQ2_S", 22, 256, 82),
        ("IQ4_XS", 23, 256, 136),
        ("I8", 24, 1, 1),
        ("I16", 25, 1, 2),
        ("I32", 26, 1, 4),
        ("I64", 27, 1, 8),
        ("F64", 28, 1, 8),
        ("IQ1_M", 29, 256, 56),
        ("BF16", 30, 1, 2),
        ("TQ1_0", 34, 256, 54),
        ("TQ2_0", 35, 256, 66),
        ("MXFP4", 39, 32, 17),
        ("NVFP4", 40, 64, 36),
        ("Q1_0", 41, 128, 18),
        ("Q2_0", 42, 64, 18),
    )
)
