"""Rotate heads before they are rounded, so that no number is much larger than the others.

A head is multiplied by the matrix of a Walsh-Hadamard transform, which is orthogonal and its own inverse: scores of
rotated queries and keys are those of the originals, and rotated sums of rotated values are the sums (QuaRot,
arXiv:2404.00456).
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.emit import FLOATS, Builder, Value
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.simd import add, floats, load, mul, operation, splat, store, sub


def _transform_lanes(b: Builder, x: Value) -> Value:
    """Emit the transform of 16 numbers, without a factor."""
    for bit in (1, 2, 4, 8):
        swapped = emit.take(b, x, [lane ^ bit for lane in range(emit.LANES)])
        signs = ir.Constant(FLOATS, [-1.0 if lane & bit else 1.0 for lane in range(emit.LANES)])
        x = b.fadd(swapped, b.fmul(x, signs))
    return x


transform_lanes = operation(floats, (floats,), _transform_lanes)


@jit
def rotate(x: int, size: int, out: int) -> None:
    """Write the transform of each block of a head; its size is the largest power of two that divides the head's.

    Parameters
    ----------
    x, out : int
        Addresses of ``size`` float32; they may be the same.
    size : int
        A multiple of 16.
    """
    n = size & -size
    factor = splat(np.float32(1.0 / math.sqrt(n)))
    for i in range(0, 4 * size, 64):
        store(mul(transform_lanes(load(x + i)), factor), out + i)
    step = 64  # bytes between two numbers that are combined
    while step < 4 * n:
        for block in range(0, 4 * size, 2 * step):
            for i in range(block, block + step, 64):
                first, second = load(out + i), load(out + i + step)
                store(add(first, second), out + i)
                store(sub(first, second), out + i + step)
        step *= 2
