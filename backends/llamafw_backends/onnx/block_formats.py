"""Tensor types whose matrices ONNX Runtime multiplies without unpacking them: codes of 2 to 8 bits in blocks.

`FORMATS` has those of ggml. A type of a plugin gives its own in ``Quant.backends["onnx"]``: a function, or a text such
as ``"my_package.onnx:codes"``, from the bytes of the rows to `BlockCodes`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from llamafw import Bytes, Floats, PluginError, Quant

Codes = npt.NDArray[np.uint8]

BITS = (2, 4, 6, 8)
"""How many bits codes can have. MatMulNBits has no 6: `code_products` makes a sum of two products of them."""


@dataclass(frozen=True, slots=True)
class BlockCodes:
    """A matrix of which the weight ``i`` of a block is ``scale · (codes[i] − 2^(bits − 1)) + offset``.

    Attributes
    ----------
    bits : int
        One of `BITS`.
    codes : (n_rows, n_blocks, block_size) uint8
        One code per weight.
    scales : (n_rows, n_blocks) float32
        One per block.
    offsets : (n_rows, n_blocks) float32, or None
        One per block; None: they are 0.
    """

    bits: int
    codes: Codes
    scales: Floats
    offsets: Floats | None = None

    @property
    def block_size(self) -> int:
        """Weights per block."""
        return int(self.codes.shape[-1])

    def widened(self, bits: int) -> BlockCodes:
        """Return the same matrix with codes of at least as many bits."""
        if bits == self.bits:
            return self
        shift = 2 ** (bits - 1) - 2 ** (self.bits - 1)
        return BlockCodes(bits, self.codes + np.uint8(shift), self.scales, self.offsets)


def pack_codes(codes: Codes, bits: int) -> Codes:
    """Return codes of 2, 4 or 8 bits as MatMulNBits stores them, ``(n_rows, n_blocks, block_size · bits / 8)`` uint8.

    The first of the codes of a byte is in its lowest bits.
    """
    n = 8 // bits
    packed = codes[..., ::n].copy()
    for i in range(1, n):
        packed |= codes[..., i::n] << np.uint8(bits * i)
    return packed


Read = Callable[[Bytes], BlockCodes]
"""Returns the codes of the rows in ``(n_rows, n_bytes)`` uint8."""


def find_format(quant: Quant) -> Read | None:
    """Return what reads the codes of a tensor type; None if its matrices must be unpacked.

    Raises
    ------
    PluginError
        What a plugin gives for this backend cannot be imported or called. The function that is returned raises it if
        the codes of a plugin do not fit the matrix.
    """
    registered: Any = getattr(quant, "backends", {}).get("onnx")
    if registered is None:
        return FORMATS.get(quant.name)
    read = _import(quant, registered) if isinstance(registered, str) else registered
    if not callable(read):
        raise PluginError(f"the tensor type {quant.name}: {read!r:.80} for the onnx backend is not a function")

    def checked(rows: Bytes) -> BlockCodes:
        codes = read(rows)
        if problem := _find_problem(codes, len(rows), rows.shape[1] // quant.type_size * quant.block_size):
            raise PluginError(f"the tensor type {quant.name}: {registered!r:.80} for the onnx backend {problem}")
        return cast("BlockCodes", codes)

    return checked


def _import(quant: Quant, path: str) -> object:
    """Return what ``path``, such as ``"my_package.onnx:codes"``, names."""
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:  # ValueError: there is no name of a module
        raise PluginError(f"the tensor type {quant.name}: {path!r} cannot be imported: {error}") from error


def _find_problem(codes: object, n_rows: int, n_columns: int) -> str:
    """Return what is wrong with the codes of a plugin; "" if nothing is."""
    if not isinstance(codes, BlockCodes):
        return f"returns {type(codes).__name__}, not BlockCodes"
    shape, size = codes.codes.shape, codes.block_size
    if codes.bits not in BITS:
        return f"has codes of {codes.bits} bits, not of 2, 4, 6 or 8"
    if size < 16 or size & (size - 1):
        return f"has blocks of {size} weights, not of a power of two from 16 on"
    if shape != (n_rows, n_columns // size, size) or codes.codes.dtype != np.uint8:
        return f"returns codes {codes.codes.dtype} {shape}, not uint8 {(n_rows, n_columns // size, size)}"
    if int(codes.codes.max(initial=0)) >= 2**codes.bits:
        return f"returns the code {codes.codes.max()}, which has more than {codes.bits} bits"
    for name, numbers in (("scales", codes.scales), ("offsets", codes.offsets)):
        if numbers is not None and numbers.shape != shape[:2]:
            return f"returns {name} of shape {numbers.shape}, not {shape[:2]}"
    return ""


def _halves(blocks: Bytes, start: int) -> Floats:
    """Return the float16 number at a byte of each block."""
    return np.ascontiguousarray(blocks[..., start : start + 2]).view(np.float16)[..., 0].astype(np.float32)


def _blocks(rows: Bytes, size: int) -> Bytes:
    return rows.reshape(len(rows), -1, size)


def _nibbles(data: Bytes) -> Codes:
    """Return codes of 4 bits whose first half are the low halves of the bytes."""
    return np.concatenate([data & 15, data >> 4], -1)


def _two_bits(data: Bytes) -> Codes:
    """Return the four codes of 2 bits of each byte, on an axis before the last one."""
    codes: Codes = (data >> np.array([0, 2, 4, 6], np.uint8)[:, None] & np.uint8(3)).astype(np.uint8, copy=False)
    return codes


def _fifth_bits(data: Bytes) -> Codes:
    """Return the bits of 32 codes, each shifted to be the fifth bit of its code."""
    return np.unpackbits(data, axis=-1, bitorder="little") << np.uint8(4)


def q4_0(rows: Bytes) -> BlockCodes:
    """Read ggml's Q4_0: ``d · (q − 8)``."""
    blocks = _blocks(rows, 18)
    return BlockCodes(4, _nibbles(blocks[..., 2:]), _halves(blocks, 0))


def q4_1(rows: Bytes) -> BlockCodes:
    """Read ggml's Q4_1: ``d · q + m``."""
    blocks = _blocks(rows, 20)
    d, m = _halves(blocks, 0), _halves(blocks, 2)
    return BlockCodes(4, _nibbles(blocks[..., 4:]), d, m + 8 * d)


def q5_0(rows: Bytes) -> BlockCodes:
    """Read ggml's Q5_0, ``d · (q − 16)``, with codes of 6 bits."""
    blocks = _blocks(rows, 22)
    q = _nibbles(blocks[..., 6:]) | _fifth_bits(blocks[..., 2:6])
    return BlockCodes(6, q + np.uint8(16), _halves(blocks, 0))


def q5_1(rows: Bytes) -> BlockCodes:
    """Read ggml's Q5_1, ``d · q + m``, with codes of 6 bits."""
    blocks = _blocks(rows, 24)
    q = _nibbles(blocks[..., 8:]) | _fifth_bits(blocks[..., 4:8])
    d, m = _halves(blocks, 0), _halves(blocks, 2)
    return BlockCodes(6, q + np.uint8(16), d, m + 16 * d)


def q8_0(rows: Bytes) -> BlockCodes:
    """Read ggml's Q8_0: ``d · q``."""
    blocks = _blocks(rows, 34)
    return BlockCodes(8, blocks[..., 2:] ^ np.uint8(128), _halves(blocks, 0))


def _k_scales(packed: Bytes) -> tuple[Floats, Floats]:
    """Return the scales and minima of the 8 blocks of a super-block of Q4_K and Q5_K, 6 bits each."""
    low, middle, high = packed[..., 0:4], packed[..., 4:8], packed[..., 8:12]
    scales = np.concatenate([low & 63, high & 15 | low >> 6 << 4], -1)
    minima = np.concatenate([middle & 63, high >> 4 | middle >> 6 << 4], -1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _with_minima(bits: int, q: Codes, d: Floats, low: Floats, middle: int) -> BlockCodes:
    """Return codes for weights ``d · q − low``; all arrays have super-blocks, which are joined.

    ``middle`` is the middle of the range of ``q``. Relative to it the offsets are smallest, and little precision is
    lost where they are added.
    """
    n = len(q)
    d = d.reshape(n, -1)
    codes = q.reshape(n, d.shape[1], -1) + np.uint8(2 ** (bits - 1) - middle)
    return BlockCodes(bits, codes, d, middle * d - low.reshape(n, -1))


def q4_k(rows: Bytes) -> BlockCodes:
    """Read ggml's Q4_K: ``d · scale · q − dmin · minimum`` in 8 blocks of 32."""
    blocks = _blocks(rows, 144)
    scales, minima = _k_scales(blocks[..., 4:16])
    d, low = _halves(blocks, 0)[..., None] * scales, _halves(blocks, 2)[..., None] * minima
    data = blocks[..., 16:].reshape(*blocks.shape[:2], 4, 32)
    return _with_minima(4, np.stack([data & 15, data >> 4], -2), d, low, 8)


def q5_k(rows: Bytes) -> BlockCodes:
    """Read ggml's Q5_K, as Q4_K with a fifth bit, with codes of 6 bits."""
    blocks = _blocks(rows, 176)
    scales, minima = _k_scales(blocks[..., 4:16])
    d, low = _halves(blocks, 0)[..., None] * scales, _halves(blocks, 2)[..., None] * minima
    data = blocks[..., 48:].reshape(*blocks.shape[:2], 4, 32)
    bits = blocks[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    q = np.stack([data & 15, data >> 4], -2).reshape(*blocks.shape[:2], 8, 32) | bits << np.uint8(4)
    return _with_minima(6, q, d, low, 16)


def q6_k(rows: Bytes) -> BlockCodes:
    """Read ggml's Q6_K, ``d · scale · (q − 32)`` in 16 blocks of 16, with codes of 6 bits."""
    blocks = _blocks(rows, 210)
    front = blocks.shape[:2]
    low = blocks[..., :128].reshape(*front, 2, 64)
    high = blocks[..., 128:192].reshape(*front, 2, 32)
    nibbles = np.stack([low[..., :32] & 15, low[..., 32:] & 15, low[..., :32] >> 4, low[..., 32:] >> 4], -2)
    q = nibbles | (high[..., None, :] >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3) << np.uint8(4)
    scales = np.ascontiguousarray(blocks[..., 192:208]).view(np.int8).astype(np.float32)
    d = (_halves(blocks, 208)[..., None] * scales).reshape(len(rows), -1)
    return BlockCodes(6, q.reshape(*d.shape, 16), d)


def q3_k(rows: Bytes) -> BlockCodes:
    """Read ggml's Q3_K, ``d · scale · (q − 4)`` in 16 blocks of 16, with codes of 4 bits."""
    blocks = _blocks(rows, 110)
    front = blocks.shape[:2]
    high = blocks[..., None, None, :32] >> np.arange(8, dtype=np.uint8).reshape(2, 4, 1) & np.uint8(1)
    q: Codes = _two_bits(blocks[..., 32:96].reshape(*front, 2, 1, 32)) | high << np.uint8(2)
    packed = blocks[..., 96:108]
    nibbles = np.concatenate([packed[..., :8] & 15, packed[..., :8] >> 4], -1)
    upper = _two_bits(packed[..., None, 8:]).reshape(*front, 16)
    scales = (nibbles | upper << np.uint8(4)).astype(np.float32) - 32
    d = (_halves(blocks, 108)[..., None] * scales).reshape(len(rows), -1)
    return BlockCodes(4, q.reshape(*d.shape, 16) + np.uint8(4), d)


def q2_k(rows: Bytes) -> BlockCodes:
    """Read ggml's Q2_K: ``d · scale · q − dmin · minimum`` in 16 blocks of 16."""
    blocks = _blocks(rows, 84)
    q = _two_bits(blocks[..., 16:80].reshape(*blocks.shape[:2], 2, 1, 32))
    d = _halves(blocks, 80)[..., None] * (blocks[..., :16] & 15)
    low = _halves(blocks, 82)[..., None] * (blocks[..., :16] >> 4)
    return _with_minima(2, q, d.astype(np.float32), low.astype(np.float32), 2)


IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
"""What the codes of IQ4_NL and IQ4_XS stand for."""

MXFP4_VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)
"""Twice the numbers of E2M1 (OCP Microscaling Formats 1.0)."""


def iq4_nl(rows: Bytes) -> BlockCodes:
    """Read ggml's IQ4_NL, ``d · values[q]``, with codes of 8 bits."""
    blocks = _blocks(rows, 18)
    return BlockCodes(8, _looked_up(IQ4_VALUES, _nibbles(blocks[..., 2:]), 8), _halves(blocks, 0))


def iq4_xs(rows: Bytes) -> BlockCodes:
    """Read ggml's IQ4_XS, ``d · (scale − 32) · values[q]`` in 8 blocks of 32, with codes of 8 bits."""
    blocks = _blocks(rows, 136)
    front = blocks.shape[:2]
    upper = np.ascontiguousarray(blocks[..., 2:4]).view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    lower = np.stack([blocks[..., 4:8] & 15, blocks[..., 4:8] >> 4], -1).reshape(*front, 8)
    scales = (lower | upper.astype(np.uint8) << 4).astype(np.float32) - 32
    d = (_halves(blocks, 0)[..., None] * scales).reshape(len(rows), -1)
    q = _nibbles(blocks[..., 8:].reshape(*front, 8, 16))
    return BlockCodes(8, _looked_up(IQ4_VALUES, q, 8).reshape(*d.shape, 32), d)


def mxfp4(rows: Bytes) -> BlockCodes:
    """Read MXFP4, ``2^(e − 127) · value``, with codes of 6 bits for twice the values."""
    blocks = _blocks(rows, 17)
    scales = np.ldexp(np.float32(1), blocks[..., 0].astype(np.int32) - 128)
    return BlockCodes(6, _looked_up(MXFP4_VALUES, _nibbles(blocks[..., 1:]), 6), scales)


def _looked_up(values: npt.NDArray[np.int8], q: Codes, bits: int) -> Codes:
    """Return codes for the numbers that other codes stand for."""
    codes: Codes = (values + np.int16(2 ** (bits - 1))).astype(np.uint8)[q]
    return codes


FORMATS: dict[str, Read] = {
    "Q4_0": q4_0,
    "Q4_1": q4_1,
    "Q5_0": q5_0,
    "Q5_1": q5_1,
    "Q8_0": q8_0,
    "Q2_K": q2_k,
    "Q3_K": q3_k,
    "Q4_K": q4_k,
    "Q5_K": q5_k,
    "Q6_K": q6_k,
    "IQ4_NL": iq4_nl,
    "IQ4_XS": iq4_xs,
    "MXFP4": mxfp4,
}
"""What reads the codes, by the names of types."""
