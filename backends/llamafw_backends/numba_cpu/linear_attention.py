"""Linear attention: the gated delta rule (arXiv:2412.06464), and decay alone, as in Mamba-2 (arXiv:2405.21060).

A head's state is a matrix S (key_size, value_size). A token with key k, value v, query q and decay g computes
``S ← g·S + k·uᵀ`` and ``o = scale · Sᵀq``, with ``u = v`` (decay alone) or ``u = beta · (v − g·Sᵀk)`` (delta rule). The
decay is one number, or one for each channel of the keys (Kimi Delta Attention, arXiv:2510.26692).

Tokens are computed in blocks; see `recurrence`. S stays as it was at the start of the block. The block's keys k_j, rows
u_j and decays g_j are stored beside it. Let W_j be the product of the decays after token j, and G the product of all
decays since the start. Then ``u = beta · (v − Sᵀ(G·k) − Σ_j (W_j·k_j · k) u_j)``, where j are the tokens before, and
``o = scale · (Sᵀ(G·q) + Σ_j (W_j·k_j · q) u_j)``, where j are the tokens up to this one.

The first token of the next block updates ``S ← G·S + Σ_j (W_j·k_j) u_jᵀ`` in the same pass over S in which it is
multiplied. So S is read once per token when decoding, and read and written once per block in a prompt. Decays are
multiplied, because sums of their logarithms would lose digits.

Each sum runs over channels or tokens in order in one lane, or over 16 lanes as a tree. Tokens that are computed
together share registers but no sums. So the result of a token depends only on the tokens of its slot up to this one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numba import literally
from numba.extending import register_jitable

from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler, jit
from llamafw_backends.numba_cpu.kernel_records import F, I, accessor, plan_at
from llamafw_backends.numba_cpu.linear_attention_emit import (
    GROUP,
    begin,
    decay_bytes,
    finish,
    multiply,
    panel_vectors,
    vectors_at_once,
    weigh,
)
from llamafw_backends.numba_cpu.recurrence import BLOCK, SPAN_BYTES, prefetch, span_at
from llamafw_backends.numba_cpu.simd import load_i64, store, store_i64, zeros

LINEAR_ATTENTION = np.dtype(
    [
        *((name, I) for name in ("q", "q_stride", "k", "k_stride")),  # (n, n_key_heads, key_size) float32
        *((name, I) for name in ("v", "v_stride", "out", "out_stride")),  # (n, n_head, value_size) float32
        *((name, I) for name in ("gate", "gate_stride")),  # ln g: (n, n_head) or (n, n_head, key_size) float32
        *((name, I) for name in ("beta", "beta_stride")),  # (n, n_head) float32, for the delta rule
        *((name, I) for name in ("state", "state_slot")),  # strides are from token to token, and from slot to slot
        ("n_head", I),
        ("n_key_heads", I),  # a divisor of n_head
        ("tiled", np.int32),  # 1: the key head of head h is h % n_key_heads; 0: it is h // (n_head / n_key_heads)
        ("scale", F),
    ]
)
"""The linear attention of a layer: n is the number of tokens of a ubatch; ``out`` must not overlap the inputs."""

_record_at = accessor(LINEAR_ATTENTION)
_SCALE = LINEAR_ATTENTION.fields["scale"][1] if LINEAR_ATTENTION.fields else 0

_AHEAD = 12  # tokens: the rows of a prompt do not fit into the caches, so they are fetched before they are needed


@register_jitable  # type: ignore[untyped-decorator]  # numba has no types
def _offsets(key_size: int, value_size: int, by_channel: int) -> tuple[int, int, int, int, int]:
    """Return the offsets in a head's state, which begins with S: keys, rows u, decays, start of the block; its size."""
    keys = 4 * key_size * value_size
    us = keys + 4 * BLOCK * key_size
    decays = us + 4 * BLOCK * value_size
    start = decays + BLOCK * decay_bytes(by_channel, key_size)
    return keys, us, decays, start, start + 64


def state_bytes(n_head: int, key_size: int, value_size: int, *, by_channel: bool = False) -> int:
    """Return the size of a slot's state, a multiple of 64."""
    return n_head * int(_offsets(key_size, value_size, int(by_channel))[-1])


def scratch_bytes(key_size: int, value_size: int) -> int:
    """Return the bytes that a thread needs: rows and products of a block, and what `weigh` writes."""
    return 4 * (2 * BLOCK * (key_size + value_size) + (BLOCK + 1) * key_size)


def build(
    compiler: KernelCompiler,
    rule: Literal["delta", "decay"],
    key_size: int,
    value_size: int,
    *,
    by_channel: bool = False,
) -> Any:
    """Compile the kernel ``linear_attention(plan, record, thread)`` for heads of one size.

    Parameters
    ----------
    compiler : KernelCompiler
        Compiles the kernel or loads its code.
    rule : {"delta", "decay"}
        The rule of `llamafw.graph.LinearAttention`.
    key_size, value_size : int
        Multiples of 16.
    by_channel : bool
        The gate has a number for each channel of the keys.
    """
    gates = "channel" if by_channel else "head"
    name = f"linear attention {rule} {key_size} x {value_size}, gates by {gates}"
    return compiler(name, 3, _linear_attention(int(rule == "delta"), int(by_channel), key_size, value_size))


@jit
def _multiply_tokens(
    delta: int,
    by_channel: int,
    key_size: int,
    value_size: int,
    state: int,
    n: int,
    full: bool,
    weighted: int,
    rows: int,
    products: int,
) -> None:
    """Write the products of S with the rows of ``n`` tokens; if the block before is full, S takes it in first."""
    literally(delta), literally(by_channel), literally(key_size), literally(value_size)
    us = state + _offsets(key_size, value_size, by_channel)[1]
    row, product = 4 * key_size * (1 + delta), 4 * value_size * (1 + delta)
    n_vectors, panel = value_size // 16, panel_vectors(value_size)

    if n == 1 and not full:
        for v in range(0, n_vectors, vectors_at_once(True, value_size)):
            columns = state + 64 * (v // panel * panel * key_size + v % panel)
            multiply(0, 1, delta, by_channel, key_size, value_size, (columns, weighted, us, rows, products + 64 * v))
        return

    for v in range(0, n_vectors, vectors_at_once(False, value_size)):
        columns, out = state + 64 * (v // panel * panel * key_size + v % panel), products + 64 * v
        if n == 1:
            multiply(1, 1, delta, by_channel, key_size, value_size, (columns, weighted, us + 64 * v, rows, out))
            continue
        for t in range(0, n, GROUP):  # the last group may have rows of no token; their products are not used
            arguments = (columns, weighted, us + 64 * v, rows + row * t, out + product * t)
            if full and t == 0:
                multiply(1, 0, delta, by_channel, key_size, value_size, arguments)
            else:
                multiply(0, 0, delta, by_channel, key_size, value_size, arguments)


@jit
def _fetch_ahead(row: int, stride: int, n_bytes: int) -> None:
    for i in range(0, n_bytes, 64):
        prefetch(row + _AHEAD * stride + i)


@jit
def _compute_tokens(
    delta: int,
    by_channel: int,
    key_size: int,
    value_size: int,
    record: int,
    state: int,
    head: int,
    first: int,
    n: int,
    position: int,
    scratch: int,
) -> None:
    """Compute ``n`` tokens of one block, the first of them at ``position``."""
    literally(delta), literally(by_channel), literally(key_size), literally(value_size)
    r = _record_at(record)
    keys_at, us_at, decays_at, start, _ = _offsets(key_size, value_size, by_channel)
    keys, us, decays, scale = state + keys_at, state + us_at, state + decays_at, record + _SCALE
    row, product = 4 * key_size * (1 + delta), 4 * value_size * (1 + delta)
    rows, products = scratch, scratch + BLOCK * row
    weighted = products + BLOCK * product

    key_head = head % r.n_key_heads if r.tiled else head // (r.n_head // r.n_key_heads)
    q = r.q + first * r.q_stride + 4 * key_size * key_head
    k = r.k + first * r.k_stride + 4 * key_size * key_head
    v = r.v + first * r.v_stride + 4 * value_size * head
    gate = r.gate + first * r.gate_stride + 4 * head * (key_size if by_channel else 1)
    beta = r.beta + first * r.beta_stride + 4 * head
    out = r.out + first * r.out_stride + 4 * value_size * head

    at = position % BLOCK
    full = at == 0 and load_i64(state + start) != position  # S has not taken in the block before
    if full:
        weigh(by_channel, key_size, (keys, decays, weighted))
        store_i64(position, state + start)
    for t in range(n):
        token = (at + t, q + t * r.q_stride, k + t * r.k_stride, gate + t * r.gate_stride)
        begin(delta, by_channel, key_size, (*token, scale, keys, decays, rows + row * t))
        if n == BLOCK:
            _fetch_ahead(q + t * r.q_stride, r.q_stride, 4 * key_size)
            _fetch_ahead(k + t * r.k_stride, r.k_stride, 4 * key_size)
            _fetch_ahead(v + t * r.v_stride, r.v_stride, 4 * value_size)

    _multiply_tokens(delta, by_channel, key_size, value_size, state, n, full, weighted, rows, products)
    for t in range(n):
        token = (at + t, q + t * r.q_stride, v + t * r.v_stride, beta + t * r.beta_stride)
        results = (products + product * t, out + t * r.out_stride)
        finish(delta, by_channel, key_size, value_size, (*token, scale, keys, us, decays, *results))


def _linear_attention(delta: int, by_channel: int, key_size: int, value_size: int) -> Callable[..., int]:
    start, head_bytes = _offsets(key_size, value_size, by_channel)[-2:]

    def linear_attention(plan: int, record: int, thread: int) -> int:
        p, r = plan_at(plan), _record_at(record)
        scratch = p.scratch + thread * p.scratch_stride
        for item in range(thread, p.n_spans * r.n_head, p.n_threads):
            span, head = span_at(p.spans + SPAN_BYTES * (item // r.n_head)), item % r.n_head
            state = r.state + span.slot * r.state_slot + head * head_bytes
            if span.position == 0:
                for i in range(state, state + 4 * key_size * value_size, 64):
                    store(zeros(), i)
                store_i64(0, state + start)

            done = 0
            while done < span.n_tokens:
                position, first = span.position + done, span.first + done
                n = min(BLOCK - position % BLOCK, span.n_tokens - done)
                _compute_tokens(
                    delta, by_channel, key_size, value_size, record, state, head, first, n, position, scratch
                )
                done += n
        return 0

    return linear_attention
