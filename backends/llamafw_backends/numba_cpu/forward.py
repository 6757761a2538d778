"""Run a batch: check it, divide it into ubatches, and compute all layers for each of them.

The computation of one ubatch is a *step*, which all threads run at once. A ubatch may have tokens of several slots at
any positions. Threads divide the tokens in operations on rows, the tiles in matrix products, and the heads in
attention.
"""

from __future__ import annotations

from typing import Any

from llamafw_backends.numba_cpu.elementwise import rms_norm, silu_product, store_activations, token_group
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.kernel_records import LAYER, layer_at, plan_at, tensor_at
from llamafw_backends.numba_cpu.matmul import matmul
from llamafw_backends.numba_cpu.simd import call_address, load_i64, store_i64
from llamafw_backends.numba_cpu.threads import barrier, run_job, work_range
from llamafw_backends.numba_cpu.token_embedding import embed

FFN_FLOATS = 32768  # gate or up values that a thread computes before it multiplies them: 128 KiB of its L2 cache
_LAYER_BYTES = LAYER.itemsize
_call_attention = call_address(3)

# the faults of a batch that `_check` finds
BAD_TOKEN, BAD_SLOT, BAD_POSITION, BAD_ORDER, BAD_OUTPUT = 1, 2, 3, 4, 5


@jit
def _check(p: Any, n: int, m: int) -> int:
    """Return the number of slots with tokens in the batch, or −8 · index − fault of the first faulty element."""
    n_runs = 0  # a run is the tokens of one slot
    for i in range(n):
        token, position, slot = load_i64(p.tokens + 8 * i), load_i64(p.positions + 8 * i), load_i64(p.slots + 8 * i)
        if token < 0 or token >= p.n_vocab:
            return -8 * i - BAD_TOKEN
        if slot < 0 or slot >= p.n_slots:
            return -8 * i - BAD_SLOT
        if position < 0 or position >= p.n_ctx:
            return -8 * i - BAD_POSITION
        if i > 0 and slot == load_i64(p.slots + 8 * i - 8):
            if position != load_i64(p.positions + 8 * i - 8) + 1:
                return -8 * i - BAD_ORDER
        else:
            if position > load_i64(p.filled + 8 * slot):
                return -8 * i - BAD_ORDER
            for j in range(i):
                if load_i64(p.slots + 8 * j) == slot:
                    return -8 * i - BAD_ORDER
            n_runs += 1

    before = -1
    for i in range(m):
        output = load_i64(p.outputs + 8 * i)
        if output <= before or output >= n:
            return -8 * i - BAD_OUTPUT
        before = output
    return n_runs


@jit
def _start_ubatch(p: Any, first: int, last: int) -> None:
    """Embed the tokens ``first`` … ``last - 1`` and divide them into items.

    An item is `max_tokens` tokens of one slot, or a single token.
    """
    p.first, p.n_tokens = first, last - first

    n_items = 0
    i = first
    while i < last:
        slot = load_i64(p.slots + 8 * i)
        count = 1
        while i + count < last and count < p.max_tokens and load_i64(p.slots + 8 * (i + count)) == slot:
            count += 1
        if count < p.max_tokens:
            count = 1

        store_i64(i - first, p.items + 16 * n_items)
        store_i64(count, p.items + 16 * n_items + 8)
        n_items += 1

        for j in range(i, i + count):
            store_i64(load_i64(p.positions + 8 * j) + 1, p.filled + 8 * slot)
            embed(p, j, p.x + (j - first) * 4 * p.n_embd)
        i += count
    p.n_items = n_items


def forward(plan: int, n: int, m: int, n_threads: int, n_threads_batch: int) -> int:
    """Run a batch of n tokens and m outputs, ubatch by ubatch.

    Return the result of `_check`; if it is negative, nothing was computed.
    """
    p = plan_at(plan)
    n_runs = _check(p, n, m)
    if n_runs <= 0:
        return n_runs
    p.n_threads = n_threads if n_runs == n else n_threads_batch
    p.n_runs, p.n_batch = n_runs, n

    logits, done = p.logits, 0
    for first in range(0, n, p.n_ubatch):
        last = min(n, first + p.n_ubatch)
        _start_ubatch(p, first, last)

        p.first_output = done
        while done < m and load_i64(p.outputs + 8 * done) < last:
            done += 1
        p.n_outputs = done - p.first_output

        run_job(p.pool, p.step, plan, p.n_threads)
        p.logits += p.n_outputs * p.logits_stride
    p.logits = logits
    return n_runs


@jit
def _multiply(
    p: Any, tensor: int, thread: int, n: int, records: int, floats: int, out: int, stride: int, add: int
) -> None:
    """Multiply this thread's part of a matrix with the activations of n tokens."""
    first, last = work_range(tensor_at(tensor).n_tiles, thread, p.n_threads)
    if first < last:
        matmul(tensor, p.widths, records, floats, n, first, last, out + 64 * first, stride, add)


@jit
def _normalise(
    p: Any, x: int, weight: int, token: int, n: int, layouts: int, records: int, floats: int, scratch: int
) -> None:
    """Store the norm of a row of the residual stream as activations."""
    rms_norm(x, weight, p.n_embd, p.norm_eps, scratch)
    start, width = token_group(p.widths, n, token)
    store_activations(scratch, 0, p.n_embd, p.n_embd, token, start, width, layouts, records, floats)


@jit
def _feed_forward(p: Any, w: Any, n: int, thread: int, records: int, floats: int, scratch: int) -> None:
    """Compute gate, up, their product and its activations, in groups of columns that stay in the cache.

    ``first``, ``last``, ``column`` and ``end`` count groups of 32 columns, which are two tiles.
    """
    first, last = work_range(p.n_ff // 32, thread, p.n_threads)
    at_once = max(1, FFN_FLOATS // (32 * n))
    layouts = tensor_at(w.ffn_down).layout

    for column in range(first, last, at_once):
        end = min(column + at_once, last)
        stride = 128 * (end - column)
        gate, up = scratch, scratch + n * stride
        matmul(w.ffn_gate, p.widths, records, floats, n, 2 * column, 2 * end, gate, stride, 0)
        matmul(w.ffn_up, p.widths, records, floats, n, 2 * column, 2 * end, up, stride, 0)

        for token in range(n):
            row = gate + token * stride
            silu_product(row, up + token * stride, stride // 4, row)
            start, width = token_group(p.widths, n, token)
            store_activations(
                row, 32 * column, 32 * end, p.n_ff, token, start, width, layouts, p.ffn_records, p.ffn_floats
            )


def step(plan: int, thread: int) -> int:
    """Run one thread's part of all layers for the tokens of a ubatch.

    Every thread computes the activations of a single token for itself, because that takes less time than a barrier.
    """
    p = plan_at(plan)
    n, n_threads, pool, row_bytes = p.n_tokens, p.n_threads, p.pool, 4 * p.n_embd
    is_single = n == 1
    scratch = p.scratch + thread * p.scratch_stride
    records = p.records + (thread * p.records_stride if is_single else 0)
    floats = p.floats + (thread * p.floats_stride if is_single else 0)
    first, last = work_range(n, thread, n_threads)
    if is_single:
        first, last = 0, 1

    columns = p.n_head * p.head_size
    for layer in range(p.n_layer):
        w = layer_at(p.layers + layer * _LAYER_BYTES)
        for token in range(first, last):
            x = p.x + token * row_bytes
            _normalise(p, x, w.attn_norm, token, n, w.qkv_layouts, records, floats, scratch)
        if not is_single:
            barrier(pool, n_threads)

        _multiply(p, w.attn_q, thread, n, records, floats, p.q, p.q_stride, 0)
        _multiply(p, w.attn_k, thread, n, records, floats, p.k, p.kv_stride, 0)
        _multiply(p, w.attn_v, thread, n, records, floats, p.v, p.kv_stride, 0)
        barrier(pool, n_threads)
        _call_attention(p.attention, plan, layer, thread)
        barrier(pool, n_threads)

        layouts = tensor_at(w.attn_output).layout
        for token in range(first, last):
            start, width = token_group(p.widths, n, token)
            source = p.attention_out + token * p.q_stride
            store_activations(source, 0, columns, columns, token, start, width, layouts, records, floats)
        if not is_single:
            barrier(pool, n_threads)
        _multiply(p, w.attn_output, thread, n, records, floats, p.x, row_bytes, 1)
        barrier(pool, n_threads)

        for token in range(first, last):
            x = p.x + token * row_bytes
            _normalise(p, x, w.ffn_norm, token, n, w.ffn_layouts, records, floats, scratch)
        if not is_single:
            barrier(pool, n_threads)

        _feed_forward(p, w, n, thread, records, floats, scratch)
        barrier(pool, n_threads)
        _multiply(p, w.ffn_down, thread, n, p.ffn_records, p.ffn_floats, p.x, row_bytes, 1)
        barrier(pool, n_threads)

    m = p.n_outputs
    layouts = tensor_at(p.output).layout
    first, last = work_range(m, thread, n_threads)

    if p.hidden != 0:
        for i in range(first, last):
            x = p.x + (load_i64(p.outputs + 8 * (p.first_output + i)) - p.first) * row_bytes
            rms_norm(x, p.output_norm, p.n_embd, p.norm_eps, p.hidden + (p.first_output + i) * row_bytes)
        return 0
    for i in range(first, last):
        x = p.x + (load_i64(p.outputs + 8 * (p.first_output + i)) - p.first) * row_bytes
        _normalise(p, x, p.output_norm, i, m, layouts, p.records, p.floats, scratch)
    barrier(pool, n_threads)
    if m > 0:
        _multiply(p, p.output, thread, m, p.records, p.floats, p.logits, p.logits_stride, 0)
    return 0
