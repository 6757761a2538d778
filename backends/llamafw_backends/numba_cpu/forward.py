"""The step: all layers for the tokens of one ubatch, run by all threads at once.

Tokens of any slots, at any positions, go through together; each thread takes a share of the tokens where rows are worked on, of the
tiles where matrices are, of the heads in attention.
"""
from __future__ import annotations

from typing import Any

import numpy as np

from llamafw_backends.numba_cpu.attention import ELEMENT_BYTES
from llamafw_backends.numba_cpu.cache import Compiler, jit
from llamafw_backends.numba_cpu.elementwise import group, prepare, rms_norm, rotate, silu_product
from llamafw_backends.numba_cpu.embedding import embed
from llamafw_backends.numba_cpu.matmul import matmul
from llamafw_backends.numba_cpu.records import LAYER, layer_at, plan_at, tensor_at
from llamafw_backends.numba_cpu.simd import (
    call_address,
    load,
    load_f32,
    load_i32,
    load_i64,
    store,
    store_f16,
    store_f32,
    store_half,
    store_i64,
)
from llamafw_backends.numba_cpu.threads import barrier, share

FFN_FLOATS = 32768  # gate or up values that a thread computes before it multiplies them: 128 KiB, a part of its L2 cache
_LAYER_BYTES = LAYER.itemsize
_call_attention = call_address(3)

# what `check` finds wrong
BAD_TOKEN, BAD_SLOT, BAD_POSITION, BAD_ORDER = 1, 2, 3, 4


def check(plan: int, tokens: int, positions: int, slots: int, n: int, n_ctx: int) -> int:
    """Return how many slots a batch has tokens of; or, if it cannot be run, −8 · index of the first bad token − what is wrong."""
    p = plan_at(plan)
    n_runs = 0
    for i in range(n):
        token, position, slot = load_i32(tokens + 4 * i), load_i32(positions + 4 * i), load_i32(slots + 4 * i)
        if token < 0 or token >= p.n_vocab:
            return -8 * i - BAD_TOKEN
        if slot < 0 or slot >= p.n_slots:
            return -8 * i - BAD_SLOT
        if position < 0 or position >= n_ctx:
            return -8 * i - BAD_POSITION
        if i > 0 and slot == load_i32(slots + 4 * i - 4):
            if position != load_i32(positions + 4 * i - 4) + 1:
                return -8 * i - BAD_ORDER
        else:
            if position > load_i64(p.filled + 8 * slot):
                return -8 * i - BAD_ORDER
            for j in range(i):
                if load_i32(slots + 4 * j) == slot:
                    return -8 * i - BAD_ORDER
            n_runs += 1
    return n_runs


def begin(plan: int, tokens: int, positions: int, slots: int, n: int) -> int:
    """Take note of the tokens of a ubatch: embed them, cut them into items of `max_tokens` of one slot, or single ones."""
    p = plan_at(plan)
    p.n_tokens = n
    n_items = 0
    i = 0
    while i < n:
        slot = load_i32(slots + 4 * i)
        count = 1
        while i + count < n and count < p.max_tokens and load_i32(slots + 4 * (i + count)) == slot:
            count += 1
        if count < p.max_tokens:
            count = 1
        item = p.items + 16 * n_items
        store_i64(i, item)
        store_i64(count, item + 8)
        n_items += 1
        for j in range(i, i + count):
            position = np.int64(load_i32(positions + 4 * j))
            store_i64(position, p.positions + 8 * j)
            store_i64(np.int64(slot), p.slots + 8 * j)
            store_i64(position + 1, p.filled + 8 * slot)
            embed(p, np.int64(load_i32(tokens + 4 * j)), p.x + j * 4 * p.n_embd)
        i += count
    p.n_items = n_items
    return 0


@jit
def _store_kv(p: Any, layer: int, token: int, key_bytes: int, value_bytes: int) -> None:
    """Turn a token's keys to their position; write keys and values into the cache."""
    position, slot, size = load_i64(p.positions + 8 * token), load_i64(p.slots + 8 * token), p.head_size
    for head in range(p.n_head_kv):
        k = p.k + token * p.kv_stride + 4 * size * head
        v = p.v + token * p.kv_stride + 4 * size * head
        rotate(k, p.rope + position * 4 * p.n_rot, p.n_rot)
        key = p.keys + slot * p.key_slot + layer * p.key_layer + head * p.key_head
        key += ((position // 16) * 16 * size + position % 16) * key_bytes  # element d follows 16 elements on
        value = p.values + slot * p.value_slot + layer * p.value_layer + head * p.value_head + position * size * value_bytes
        if key_bytes == 2:
            for d in range(size):
                store_f16(load_f32(k + 4 * d), key + 32 * d)
        else:
            for d in range(size):
                store_f32(load_f32(k + 4 * d), key + 64 * d)
        for d in range(0, size, 16):
            if value_bytes == 2:
                store_half(load(v + 4 * d), value + 2 * d)
            else:
                store(load(v + 4 * d), value + 4 * d)


@jit
def _multiply(p: Any, tensor: int, n: int, out: int, stride: int, add: int, thread: int) -> None:
    """Multiply this thread's share of a matrix with n tokens."""
    first, last = share(tensor_at(tensor).n_tiles, thread, p.n_threads)
    if first < last:
        matmul(tensor, p.widths, p.records, p.floats, n, first, last, out + 64 * first, stride, add)


@jit
def _normalise(p: Any, x: int, weight: int, token: int, n: int, layouts: int, scratch: int) -> None:
    """Norm of a row of the residual stream, as activations."""
    rms_norm(x, weight, p.n_embd, p.norm_eps, scratch)
    start, width = group(p.widths, n, token)
    prepare(scratch, 0, p.n_embd, p.n_embd, token, start, width, layouts, p.records, p.floats)


@jit
def _feed_forward(p: Any, w: Any, n: int, thread: int, scratch: int) -> None:
    """Gate and up, their product, and its activations, some columns at a time while they are in the cache."""
    first, last = share(p.n_ff // 32, thread, p.n_threads)
    at_once = max(1, FFN_FLOATS // (32 * n))
    layouts = tensor_at(w.ffn_down).layout
    for column in range(first, last, at_once):
        count = min(at_once, last - column)
        stride = 128 * count
        gate, up = scratch, scratch + n * stride
        tile, end = 2 * column, 2 * (column + count)
        matmul(w.ffn_gate, p.widths, p.records, p.floats, n, tile, end, gate, stride, 0)
        matmul(w.ffn_up, p.widths, p.records, p.floats, n, tile, end, up, stride, 0)
        for token in range(n):
            row = gate + token * stride
            silu_product(row, up + token * stride, 32 * count, row)
            start, width = group(p.widths, n, token)
            prepare(
                row, 32 * column, 32 * (column + count), p.n_ff, token, start, width, layouts, p.ffn_records, p.ffn_floats
            )


def step(key_bytes: int, value_bytes: int) -> Any:
    """Return the function ``step(plan, thread)`` for the element sizes of the KV cache."""

    def step(plan: int, thread: int) -> int:
        p = plan_at(plan)
        n, n_threads, pool = p.n_tokens, p.n_threads, p.pool
        scratch = p.scratch + thread * p.scratch_stride
        first, last = share(n, thread, n_threads)
        row = 4 * p.n_embd
        for layer in range(p.n_layer):
            w = layer_at(p.layers + layer * _LAYER_BYTES)
            for token in range(first, last):
                _normalise(p, p.x + token * row, w.attn_norm, token, n, w.qkv_layouts, scratch)
            barrier(pool, n_threads)
            _multiply(p, w.attn_q, n, p.q, p.q_stride, 0, thread)
            _multiply(p, w.attn_k, n, p.k, p.kv_stride, 0, thread)
            _multiply(p, w.attn_v, n, p.v, p.kv_stride, 0, thread)
            barrier(pool, n_threads)
            for token in range(first, last):
                _store_kv(p, layer, token, key_bytes, value_bytes)
            barrier(pool, n_threads)
            _call_attention(p.attention, plan, layer, thread)
            barrier(pool, n_threads)
            columns = p.n_head * p.head_size
            for token in range(first, last):
                start, width = group(p.widths, n, token)
                layouts = tensor_at(w.attn_output).layout
                source = p.attended + token * p.q_stride
                prepare(source, 0, columns, columns, token, start, width, layouts, p.records, p.floats)
            barrier(pool, n_threads)
            _multiply(p, w.attn_output, n, p.x, row, 1, thread)
            barrier(pool, n_threads)
            for token in range(first, last):
                _normalise(p, p.x + token * row, w.ffn_norm, token, n, w.ffn_layouts, scratch)
            barrier(pool, n_threads)
            _feed_forward(p, w, n, thread, scratch)
            barrier(pool, n_threads)
            down = tensor_at(w.ffn_down)
            begins, ends = share(down.n_tiles, thread, n_threads)
            if begins < ends:
                matmul(
                    w.ffn_down, p.widths, p.ffn_records, p.ffn_floats, n, begins, ends, p.x + 64 * begins, row, 1
                )
            barrier(pool, n_threads)
        m = p.n_outputs
        first, last = share(m, thread, n_threads)
        for i in range(first, last):
            token = load_i64(p.outputs + 8 * i)
            _normalise(p, p.x + token * row, p.output_norm, i, m, tensor_at(p.output).layout, scratch)
        barrier(pool, n_threads)
        if m > 0:
            _multiply(p, p.output, m, p.logits, p.logits_stride, 0, thread)
        return 0

    return step


def build_step(compiler: Compiler, keys: str, values: str) -> Any:
    """Return the compiled `step`."""
    return compiler(f"step, {keys} and {values}", 2, step(ELEMENT_BYTES[keys], ELEMENT_BYTES[values]))
