"""Round weights to the K-quants and to other types whose scales are searched for.

A K-quant has blocks of 256 weights, in parts of 16 or 32. Each part has a scale, and in some types a minimum, which are
integers times a float16 of the block. Weights are ``scale · q`` or ``scale · q − minimum``. For the layouts, see
``ggml-common.h`` of https://github.com/ggml-org/ggml.

Every function takes weights, ``(n, 256)`` or ``(n, 32)`` float32, and a factor for each weight's squared error, which
is not negative. It returns ``(n, type_size)`` uint8. This module is imported when the first tensor is rounded, because
it needs numba.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llamafw import Bytes, Floats
from llamafw_plugins.quants.scale_search import (
    round_blocks,
    round_to_iq4_nl,
    search_iq4_nl_scale,
    search_scale,
    search_scale_and_minimum,
)

Array = np.ndarray[Any, np.dtype[Any]]

_STEP = np.float32(0.1)  # between the choices that a search compares


def q2_k(x: Floats, factors: Floats) -> Bytes:
    """Round to Q2_K: 16 parts with scales and minima of 4 bits."""
    d, d_min, scales, minima, codes = _scales_and_minima(x, factors, n_parts=16, n_codes=4, largest=15)
    return _joined(scales | minima << 4, _pairs_of_bits(codes), d, d_min)


def q3_k(x: Floats, factors: Floats) -> Bytes:
    """Round to Q3_K: 16 parts with scales of 6 bits."""
    d, scales, codes = _scales(x, factors, lowest=-4, lowest_scale=-32)
    scales = (scales + 32).astype(np.uint8)
    low, high = scales & 15, scales >> 4
    packed = low[:, :8] | low[:, 8:] << 4, _combined(high.reshape(-1, 4, 4), 2)
    return _joined(_combined(codes.reshape(-1, 8, 32) >> 2, 1), _pairs_of_bits(codes & 3), *packed, d)


def q4_k(x: Floats, factors: Floats) -> Bytes:
    """Round to Q4_K: 8 parts with scales and minima of 6 bits."""
    d, d_min, scales, minima, codes = _scales_and_minima(x, factors, n_parts=8, n_codes=16, largest=63)
    return _joined(d, d_min, *_six_bits(scales, minima), _nibbles(codes, 32))


def q5_k(x: Floats, factors: Floats) -> Bytes:
    """Round to Q5_K: 8 parts with scales and minima of 6 bits."""
    d, d_min, scales, minima, codes = _scales_and_minima(x, factors, n_parts=8, n_codes=32, largest=63)
    fifth_bits = _combined(codes.reshape(-1, 8, 32) >> 4, 1)
    return _joined(d, d_min, *_six_bits(scales, minima), fifth_bits, _nibbles(codes & 15, 32))


def q6_k(x: Floats, factors: Floats) -> Bytes:
    """Round to Q6_K: 16 parts with scales of 8 bits."""
    d, scales, codes = _scales(x, factors, lowest=-32, lowest_scale=-128)
    scales = scales.astype(np.int8).view(np.uint8)
    return _joined(_nibbles(codes & 15, 64), _pairs_of_bits(codes >> 4), scales, d)


def iq4_nl(x: Floats, factors: Floats) -> Bytes:
    """Round to IQ4_NL: codes of 4 bits for numbers that are not evenly spaced."""
    scales, codes = np.empty(len(x), np.float32), np.empty(x.shape, np.uint8)
    search_iq4_nl_scale(x, factors, 7, scales)
    d = _half(scales)
    round_to_iq4_nl(x, d.astype(np.float32), codes)
    return _joined(d, _nibbles(codes, 16))


def iq4_xs(x: Floats, factors: Floats) -> Bytes:
    """Round to IQ4_XS: 8 parts with scales of 6 bits, and the codes of IQ4_NL."""
    parts, w = x.reshape(-1, 32), factors.reshape(-1, 32)
    exact, d = np.empty(len(parts), np.float32), np.empty(len(x), np.float32)
    search_iq4_nl_scale(parts, w, 7, exact)
    by_block = exact.reshape(len(x), 8)
    search_scale(by_block, w.sum(1).reshape(len(x), 8), -32, _STEP, 5, d)
    d = _half(d)
    unit = d.astype(np.float32)[:, None]
    scales = _nearest(by_block, unit, -32, 31)
    codes = np.empty(parts.shape, np.uint8)
    round_to_iq4_nl(parts, np.ascontiguousarray(unit * scales).reshape(-1), codes)
    packed = (scales + 32).astype(np.uint8)
    low = packed[:, ::2] & 15 | (packed[:, 1::2] & 15) << 4
    high = _combined((packed >> 4).reshape(-1, 2, 4).transpose(0, 2, 1), 2)
    return _joined(d, high, low, _nibbles(codes.reshape(x.shape), 16))


def q4_0(x: Floats, factors: Floats) -> Bytes:
    """Round to Q4_0: a scale for 32 weights."""
    d, codes = _scale(x, factors, lowest=-8)
    return _joined(d, _nibbles(codes, 16))


def q5_0(x: Floats, factors: Floats) -> Bytes:
    """Round to Q5_0: a scale for 32 weights."""
    d, codes = _scale(x, factors, lowest=-16)
    return _joined(d, _fifth_bits(codes), _nibbles(codes & 15, 16))


def q4_1(x: Floats, factors: Floats) -> Bytes:
    """Round to Q4_1: a scale and a minimum for 32 weights."""
    d, start, codes = _scale_and_start(x, factors, n_codes=16)
    return _joined(d, start, _nibbles(codes, 16))


def q5_1(x: Floats, factors: Floats) -> Bytes:
    """Round to Q5_1: a scale and a minimum for 32 weights."""
    d, start, codes = _scale_and_start(x, factors, n_codes=32)
    return _joined(d, start, _fifth_bits(codes), _nibbles(codes & 15, 16))


# --- scales, minima and codes -----------------------------------------------------------------------


def _scales(x: Floats, factors: Floats, lowest: int, lowest_scale: int) -> tuple[Array, Array, Array]:
    """Return the block's scale, those of its 16 parts as integers, and the codes of the weights."""
    parts, w = x.reshape(-1, 16), factors.reshape(-1, 16)
    exact, d = np.empty(len(parts), np.float32), np.empty(len(x), np.float32)
    search_scale(parts, w, lowest, _STEP, 9, exact)
    search_scale(exact.reshape(len(x), 16), w.sum(1).reshape(len(x), 16), lowest_scale, _STEP, 5, d)
    d = _half(d)
    unit = d.astype(np.float32)[:, None]
    scales = _nearest(exact.reshape(len(x), 16), unit, lowest_scale, -lowest_scale - 1)
    codes = _codes(parts, unit * scales, np.zeros(len(parts), np.float32), lowest, -2 * lowest)
    return d, scales, codes.reshape(x.shape)


def _scales_and_minima(
    x: Floats, factors: Floats, n_parts: int, n_codes: int, largest: int
) -> tuple[Array, Array, Array, Array, Array]:
    """Return the block's scale and minimum, those of its parts as integers up to ``largest``, and the codes."""
    shape, size = (len(x), n_parts), 256 // n_parts
    parts, w = x.reshape(-1, size), factors.reshape(-1, size)
    scales, minima = _best_scale_and_minimum(parts, w, n_codes)
    weights = w.sum(1).reshape(shape)
    d, integer_scales = _integers(scales.reshape(shape), weights, largest)
    d_min, integer_minima = _integers(minima.reshape(shape), weights, largest)
    codes = _codes(
        parts,
        d.astype(np.float32)[:, None] * integer_scales,
        d_min.astype(np.float32)[:, None] * integer_minima,
        0,
        n_codes,
    )
    return d, d_min, integer_scales.astype(np.uint8), integer_minima.astype(np.uint8), codes.reshape(x.shape)


def _integers(numbers: Floats, weights: Floats, largest: int) -> tuple[Array, Array]:
    """Return a float16 for each row, and the integers up to ``largest`` that it is multiplied with."""
    unit = np.empty(len(numbers), np.float32)
    search_scale(numbers, weights, -largest, _STEP, 5, unit)
    d = _half(np.abs(unit))  # no number is negative, but those that they were rounded to may be
    return d, _nearest(numbers, d.astype(np.float32)[:, None], 0, largest)


def _scale(x: Floats, factors: Floats, lowest: int) -> tuple[Array, Array]:
    """Return the scale and the codes of blocks with one scale."""
    scales = np.empty(len(x), np.float32)
    search_scale(x, factors, lowest, _STEP, 9, scales)
    d = _half(scales)
    return d, _codes(x, d.astype(np.float32), np.zeros(len(x), np.float32), lowest, -2 * lowest)


def _scale_and_start(x: Floats, factors: Floats, n_codes: int) -> tuple[Array, Array, Array]:
    """Return the scale, the lowest weight and the codes of blocks with one scale."""
    low = x.min(1, keepdims=True)
    shift = np.maximum(low, 0)  # the search allows for no lowest weight above zero
    scales, minima = _best_scale_and_minimum(x - shift, factors, n_codes)
    d, start = _half(scales), _half(shift[:, 0] - minima)
    return d, start, _codes(x, d.astype(np.float32), -start.astype(np.float32), 0, n_codes)


def _best_scale_and_minimum(parts: Floats, factors: Floats, n_codes: int) -> tuple[Floats, Floats]:
    scales, minima = np.empty(len(parts), np.float32), np.empty(len(parts), np.float32)
    search_scale_and_minimum(parts, factors, n_codes - 1, np.float32(-0.9), np.float32(0.05), 36, scales, minima)
    return scales, minima


def _codes(parts: Floats, scales: Floats, minima: Floats, lowest: int, n_codes: int) -> Bytes:
    codes = np.empty(parts.shape, np.uint8)
    round_blocks(parts, np.ascontiguousarray(scales).reshape(-1), minima.reshape(-1), lowest, n_codes, codes)
    return codes


def _nearest(numbers: Floats, unit: Floats, lowest: int, highest: int) -> Array:
    """Return the nearest integers of ``numbers / unit``; 0 if the unit is 0."""
    integers: Array = np.divide(numbers, unit, out=np.zeros_like(numbers), where=unit != 0)
    return np.clip(np.rint(integers), lowest, highest)


def _half(numbers: Floats) -> Array:
    return numbers.astype(np.float16)


# --- bytes ------------------------------------------------------------------------------------------


def _joined(*fields: Array) -> Bytes:
    """Return the fields of blocks side by side, as bytes."""
    return np.concatenate([field.reshape(len(field), -1).view(np.uint8) for field in fields], 1)


def _combined(codes: Array, n_bits: int) -> Array:
    """Return bytes with ``n_bits`` of each code along axis 1, the first code in the lowest bits."""
    shifts = np.arange(0, n_bits * codes.shape[1], n_bits, dtype=np.uint8)
    combined: Array = np.bitwise_or.reduce(codes << shifts[:, None], 1)
    return combined


def _nibbles(codes: Array, n: int) -> Array:
    """Return bytes with two codes each: those of ``n`` weights in the low bits, of the next ``n`` in the high bits."""
    pairs = codes.reshape(len(codes), -1, 2, n)
    combined: Array = pairs[:, :, 0] | pairs[:, :, 1] << 4
    return combined.reshape(len(codes), -1)


def _pairs_of_bits(codes: Array) -> Array:
    """Return bytes with four codes each, of weights that are 32 apart."""
    return _combined(codes.reshape(-1, 4, 32), 2).reshape(len(codes), -1)


def _fifth_bits(codes: Array) -> Array:
    return np.packbits(codes >> 4, axis=1, bitorder="little")


def _six_bits(scales: Array, minima: Array) -> tuple[Array, Array, Array]:
    """Return the bytes of 8 scales and 8 minima of 6 bits."""
    first, second = (x[:, :4] | x[:, 4:] >> 4 << 6 for x in (scales, minima))
    return first, second, scales[:, 4:] & 15 | (minima[:, 4:] & 15) << 4
