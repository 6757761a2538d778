"""The ternary tensor types of Prism ML: PQ2_0 and PTQ1_0, with a float16 scale for 128 weights.

Weights are (q − 1) · d. PQ2_0 has 2 bits for q, so 3 is possible. PTQ1_0 has 1.6 bits: a byte has 5 digits to base 3,
in blocks of bytes whose first digits come first, then all second digits, and so on:

==========  ==========  ======
columns     bytes       digits
==========  ==========  ======
0 – 79      0 – 15      5
80 – 119    16 – 23     5
120 – 127   24, 25      4
==========  ==========  ======
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from llamafw import Bytes, Floats, ModelError

BLOCK = 128
PARTS = ((0, 16, 5), (16, 24, 5), (24, 26, 4))  # of PTQ1_0: first byte, last byte + 1, digits per byte
_BYTES = np.arange(256)[:, None] * 243 // 256
DIGITS: Bytes = (_BYTES // 3 ** np.arange(4, -1, -1) % 3).astype(np.uint8)  # (256, 5): most significant first


class _Ternary(ABC):
    """What both types share."""

    name: ClassVar[str]
    type_size: ClassVar[int]
    block_size = BLOCK

    def dequantize(self, data: Bytes, shape: Sequence[int]) -> Floats:
        """Return the weights as float32 of ``shape``."""
        n = math.prod(shape)
        if n % BLOCK or data.size != n // BLOCK * self.type_size:
            raise ModelError(f"{data.size} bytes are not a {self.name} tensor of shape {tuple(shape)}")
        d, q = self.read(np.ascontiguousarray(data).reshape(-1, self.type_size))
        with np.errstate(invalid="ignore"):  # a scale may be infinite
            weights: Floats = (q - np.float32(1)) * d
        return weights.reshape(shape)

    def read(self, blocks: Bytes) -> tuple[Floats, Bytes]:
        """Return the scales d of blocks, ``(n_blocks, 1)``, and the numbers q, ``(n_blocks, 128)``."""
        d, q = self._read(blocks)
        return np.ascontiguousarray(d).view("<f2").astype(np.float32), q

    @abstractmethod
    def _read(self, blocks: Bytes) -> tuple[Bytes, Bytes]:
        """Return the bytes of d and the numbers q of each block."""


class PQ2_0(_Ternary):
    """Blocks of 34 bytes: d, then 4 weights per byte."""

    name, type_id, type_size = "PQ2_0", 142, 34
    old_type_ids = (42,)  # of the first Ternary-Bonsai files; now of Q2_0, whose blocks have 64 weights
    backends: Mapping[str, str] = {
        "numba": "llamafw_backends.custom_quant.pq2_0:PQ2_0",
        "onnx": "llamafw_backends.custom_quant.onnx_parts:pq2_0_codes",
    }

    def _read(self, blocks: Bytes) -> tuple[Bytes, Bytes]:
        q = (blocks[:, 2:, None] >> np.arange(0, 8, 2, dtype=np.uint8) & np.uint8(3)).astype(np.uint8, copy=False)
        return blocks[:, :2], q.reshape(-1, BLOCK)


class PTQ1_0(_Ternary):
    """Blocks of 28 bytes: digits to base 3, then d."""

    name, type_id, type_size = "PTQ1_0", 143, 28
    backends: Mapping[str, str] = {
        "numba": "llamafw_backends.custom_quant.ptq1_0:PTQ1_0",
        "onnx": "llamafw_backends.custom_quant.onnx_parts:ptq1_0_codes",
    }

    def _read(self, blocks: Bytes) -> tuple[Bytes, Bytes]:
        parts = [DIGITS[blocks[:, first:last], :n].transpose(0, 2, 1) for first, last, n in PARTS]
        q: Bytes = np.concatenate([part.reshape(len(part), math.prod(part.shape[1:])) for part in parts], axis=1)
        return blocks[:, 26:], q
