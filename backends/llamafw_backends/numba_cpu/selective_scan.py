"""The selective scan of Mamba-1 (arXiv:2312.00752): ``h ← exp(Δ A) h + Δ B x`` per channel, ``y = C · h + D x``.

16 channels are computed together, one in each lane. A lane adds the products with C in order, so neither batches nor
threads can change the sum.

A slot keeps h, and also h at the start of the last block (see `recurrence`) with x, Δ and B of the block's tokens. If
the slot has gone back within the block, the next token first computes h from these.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler, jit
from llamafw_backends.numba_cpu.kernel_records import I, accessor, plan_at
from llamafw_backends.numba_cpu.recurrence import BLOCK, SPAN_BYTES, prefetch, span_at
from llamafw_backends.numba_cpu.simd import (
    exp,
    fma,
    load,
    load_f32,
    load_i64,
    mul,
    splat,
    store,
    store_i64,
    zeros,
)
from llamafw_backends.numba_cpu.threads import work_range

SELECTIVE_SCAN = np.dtype(
    [
        *((name, I) for name in ("x", "x_stride", "delta", "delta_stride")),  # (n, n_channels) float32
        *((name, I) for name in ("b", "b_stride", "c", "c_stride")),  # (n, n_state) float32
        *((name, I) for name in ("out", "out_stride")),  # (n, n_channels) float32
        ("a", I),  # (n_channels / 16, n_state, 16) float32: see `pack_a`
        ("d", I),  # (n_channels,) float32
        *((name, I) for name in ("state", "state_slot")),  # strides are from token to token, and from slot to slot
        *((name, I) for name in ("n_channels", "n_state")),  # n_channels is a multiple of 16
    ]
)
"""The selective scan of a layer: n is the number of tokens of a ubatch; rows end at a multiple of 64 bytes."""

_record_at = accessor(SELECTIVE_SCAN)
_AHEAD = 8  # tokens: the rows of a prompt do not fit into the caches, so they are fetched before they are needed


@register_jitable  # type: ignore[untyped-decorator]  # numba has no types
def _offsets(n_state: int) -> tuple[int, int, int, int]:
    """Return the offsets in the state of 16 channels, and its size.

    The state begins with h, (n_state, 16) float32. At the offsets are h at the start of the block; x, Δ and B of each
    token of the block; and two int64: the position that h has reached, and the start of the block.
    """
    kept = 2 * 64 * n_state
    positions = kept + BLOCK * _kept_bytes(n_state)
    return 64 * n_state, kept, positions, positions + 64


@register_jitable  # type: ignore[untyped-decorator]  # numba has no types
def _kept_bytes(n_state: int) -> int:
    """Return the size of a token's x, Δ and B."""
    return 128 + (4 * n_state + 63) // 64 * 64


def pack_a(a: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return A of `llamafw.graph.SelectiveScan`, (n_channels, n_state), as the kernel reads it."""
    return np.ascontiguousarray(a.reshape(-1, 16, a.shape[1]).transpose(0, 2, 1), np.float32)


def state_bytes(n_channels: int, n_state: int) -> int:
    """Return the size of a slot's state, a multiple of 64."""
    return n_channels // 16 * int(_offsets(n_state)[-1])


def build(compiler: KernelCompiler) -> Any:
    """Compile the kernel ``selective_scan(plan, record, thread)``.

    It needs no scratch memory.
    """
    return compiler("selective scan", 3, selective_scan)


@jit
def _step(h: int, a: int, n_state: int, x: Any, delta: Any, b: int, c: int) -> Any:
    """Update h by one token; return C · h."""
    input_, y = mul(delta, x), zeros()
    for i in range(n_state):
        decay = exp(mul(delta, load(a + 64 * i)))
        new = fma(input_, splat(load_f32(b + 4 * i)), mul(decay, load(h + 64 * i)))
        store(new, h + 64 * i)
        y = fma(splat(load_f32(c + 4 * i)), new, y)
    return y


@jit
def _copy(source: int, target: int, n_bytes: int) -> None:
    for i in range(0, n_bytes, 64):
        store(load(source + i), target + i)


@jit
def _scan(r: Any, span: Any, group: int) -> None:
    """Compute 16 channels of a span."""
    n_state, size, column = r.n_state, 64 * r.n_state, 64 * group
    block_at, kept_at, positions_at, n_bytes = _offsets(n_state)
    h = r.state + span.slot * r.state_slot + group * n_bytes
    h_of_block, now, start = h + block_at, h + positions_at, h + positions_at + 8
    a, d = r.a + group * size, load(r.d + column)

    position, end = span.position, span.position + span.n_tokens
    if position == 0:
        for i in range(0, size, 64):
            store(zeros(), h + i)
            store(zeros(), h_of_block + i)
        store_i64(0, start)
    elif load_i64(now) != position:  # the slot has gone back
        _copy(h_of_block, h, size)
        position = load_i64(start)

    last_start = (end - 1) // BLOCK * BLOCK
    for i in range(position, end):
        if i == last_start and i != load_i64(start):
            _copy(h, h_of_block, size)
            store_i64(i, start)
        kept = h + kept_at + i % BLOCK * _kept_bytes(n_state)
        if i < span.position:
            _step(h, a, n_state, load(kept), load(kept + 64), kept + 128, kept + 128)
            continue

        token = span.first + i - span.position
        x_at, delta_at = r.x + token * r.x_stride + column, r.delta + token * r.delta_stride + column
        prefetch(x_at + _AHEAD * r.x_stride)
        prefetch(delta_at + _AHEAD * r.delta_stride)
        x, delta, b = load(x_at), load(delta_at), r.b + token * r.b_stride
        y = _step(h, a, n_state, x, delta, b, r.c + token * r.c_stride)
        store(fma(d, x, y), r.out + token * r.out_stride + column)
        if i >= last_start:
            store(x, kept)
            store(delta, kept + 64)
            _copy(b, kept + 128, 4 * n_state)
    store_i64(end, now)


def selective_scan(plan: int, record: int, thread: int) -> int:
    """Compute this thread's channels of all spans."""
    p, r = plan_at(plan), _record_at(record)
    first, last = work_range(r.n_channels // 16, thread, p.n_threads)
    for i in range(p.n_spans):
        span = span_at(p.spans + SPAN_BYTES * i)
        for group in range(first, last):
            _scan(r, span, group)
    return 0
