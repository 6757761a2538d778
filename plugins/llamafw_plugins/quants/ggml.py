"""The tensor types of ggml: their numbers, sizes, and exact conversion to float32.

Unquantised types are converted here. Blocks of quantised weights are converted by the `gguf` package, the reference,
which is slow, is imported on first use, and runs while a model loads. Types that it cannot convert are listed too, so
that a file with them can be opened and errors can name the type. For the layouts, see ``ggml-common.h`` of
https://github.com/ggml-org/ggml.
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
"""Types of ±scale, and of −1, 0, 1 or 2 times a scale."""

CHUNK = 2**17  # weights converted at once; the `gguf` package converts 16 rows, which is slow for short rows


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


TYPES = tuple(
    GgmlType(*row)
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
