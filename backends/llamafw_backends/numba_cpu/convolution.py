"""Causal depthwise convolution, optionally followed by SiLU.

``y[t, c] = b[c] + Σ_j w[c, j] · x[t − k + 1 + j, c]``, with zeros before position 0. The sum of a channel runs from the
oldest input to the newest in one lane, so neither batches nor threads can change it.

A slot keeps its last inputs as a ring: the input of position p is in row ``p % n_rows``. The ring has
`recurrence.BLOCK` rows more than a token needs, so the slot can go back within its last block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import literally
from numba.extending import register_jitable

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.emit import FLOATS, I64, Builder, Value, address, constant
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler, jit
from llamafw_backends.numba_cpu.kernel_records import I, accessor, plan_at
from llamafw_backends.numba_cpu.recurrence import BLOCK, SPAN_BYTES, span_at
from llamafw_backends.numba_cpu.simd import load, specialised, store, store_i64, zeros
from llamafw_backends.numba_cpu.threads import work_range

CONVOLUTION = np.dtype(
    [
        *((name, I) for name in ("x", "x_stride", "out", "out_stride")),  # (n, n_channels) float32
        ("weight", I),  # (k, n_channels) float32: see `pack_weight`
        ("bias", I),  # (n_channels,) float32, if the kernel has one
        *((name, I) for name in ("state", "state_slot")),  # strides are from token to token, and from slot to slot
        ("n_channels", I),  # a multiple of 16
    ]
)
"""The convolution of a layer: n is the number of tokens of a ubatch; ``out`` must not overlap ``x``."""

_record_at = accessor(CONVOLUTION)
_TOKENS = 4  # tokens that are computed together: they share inputs and weights in registers


@register_jitable  # type: ignore[untyped-decorator]  # numba has no types
def _table_bytes(k: int) -> int:
    """Return the bytes for the addresses of the inputs of tokens that are computed together."""
    return (8 * (_TOKENS + k - 1) + 63) // 64 * 64


def pack_weight(weight: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return the weight of `llamafw.graph.Conv`, (n_channels, k), as the kernel reads it."""
    return np.ascontiguousarray(weight.T, np.float32)


def state_bytes(n_channels: int, k: int) -> int:
    """Return the size of a slot's state, a multiple of 64."""
    return 4 * n_channels * (k - 1 + BLOCK)


def scratch_bytes(n_channels: int, k: int) -> int:
    """Return the bytes that a thread needs: addresses of inputs, and zeros in place of inputs before position 0."""
    return int(_table_bytes(k)) + 4 * n_channels


def build(compiler: KernelCompiler, k: int, *, bias: bool = False, silu: bool = False) -> Any:
    """Compile the kernel ``convolution(plan, record, thread)``.

    Parameters
    ----------
    compiler : KernelCompiler
        Compiles the kernel or loads its code.
    k : int
        Number of inputs that a token sees, at least 1.
    bias : bool
        Add the bias.
    silu : bool
        Apply SiLU to the result.
    """
    name = f"convolution of {k}{' with bias' * bias}{' and silu' * silu}"
    return compiler(name, 3, _convolution(k, int(bias), int(silu)))


def _emit_tokens(b: Builder, values: list[Value], n_tokens: int, k: int, bias: int, silu: int) -> None:
    """Emit ``n_tokens`` tokens; ``table`` has the addresses of their inputs and the ``k - 1`` inputs before."""
    table, weights, weight_row, biases, out, out_stride, n_bytes = values
    rows = [emit.load(b, address(b, table, 8 * i), I64) for i in range(n_tokens + k - 1)]
    outs = [b.add(out, b.mul(out_stride, constant(I64, t))) for t in range(n_tokens)]
    weight_rows = [b.add(weights, b.mul(weight_row, constant(I64, j))) for j in range(k)]

    def channels(i: Value, _: list[Value]) -> list[Value]:
        offset = b.mul(i, constant(I64, 64))
        inputs = [emit.load(b, b.add(row, offset), FLOATS) for row in rows]
        weight = [emit.load(b, b.add(row, offset), FLOATS) for row in weight_rows]
        start = emit.load(b, b.add(biases, offset), FLOATS) if bias else constant(FLOATS, 0.0)
        for t, place in enumerate(outs):
            y = start
            for j in range(k):
                y = emit.fma(b, weight[j], inputs[t + j], y)
            emit.store(b, emit_silu(b, y) if silu else y, b.add(place, offset))
        return []

    emit.loop(b, b.sdiv(n_bytes, constant(I64, 64)), [], channels)


def emit_silu(b: Builder, x: Value) -> Value:
    """Emit x · sigmoid(x)."""
    one = constant(FLOATS, 1.0)
    return b.fmul(x, b.fdiv(one, b.fadd(one, emit.exp(b, b.fsub(constant(FLOATS, 0.0), x)))))


_compute = specialised("convolve", 4, 7, _emit_tokens)


@jit
def _convolve(k: int, bias: int, silu: int, r: Any, span: Any, first: int, n_bytes: int, scratch: int) -> None:
    """Compute the channels of a span from byte ``first`` of their rows on, and keep its last inputs."""
    literally(k), literally(bias), literally(silu)
    width, n_rows = 4 * r.n_channels, k - 1 + BLOCK
    x, ring = r.x + span.first * r.x_stride + first, r.state + span.slot * r.state_slot + first
    out = r.out + span.first * r.out_stride + first
    none = scratch + _table_bytes(k)
    if span.position < k - 1:
        for i in range(0, n_bytes, 64):
            store(zeros(), none + i)

    done = 0
    while done < span.n_tokens:
        n = _TOKENS if done + _TOKENS <= span.n_tokens else 1
        for i in range(n + k - 1):
            token = done + i - (k - 1)
            position = span.position + token
            kept = ring + position % n_rows * width if position >= 0 else none
            store_i64(x + token * r.x_stride if token >= 0 else kept, scratch + 8 * i)
        results = (r.bias + first, out + done * r.out_stride, r.out_stride, n_bytes)
        if n == _TOKENS:
            _compute(_TOKENS, k, bias, silu, (scratch, r.weight + first, width, *results))
        else:
            _compute(1, k, bias, silu, (scratch, r.weight + first, width, *results))
        done += n

    for token in range(max(0, span.n_tokens - n_rows), span.n_tokens):
        row = ring + (span.position + token) % n_rows * width
        for i in range(0, n_bytes, 64):
            store(load(x + token * r.x_stride + i), row + i)


def _convolution(k: int, bias: int, silu: int) -> Callable[..., int]:
    def convolution(plan: int, record: int, thread: int) -> int:
        p, r = plan_at(plan), _record_at(record)
        first, last = work_range(r.n_channels // 16, thread, p.n_threads)
        scratch = p.scratch + thread * p.scratch_stride
        for i in range(p.n_spans):
            _convolve(k, bias, silu, r, span_at(p.spans + SPAN_BYTES * i), 64 * first, 64 * (last - first), scratch)
        return 0

    return convolution
