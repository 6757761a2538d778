"""Compute attention over the KV cache, for a few query rows that share a KV head.

A row is one query head of one token. Keys are stored in blocks of 16 positions, which are tiles of 16 rows: a vector
holds the same element of 16 keys. Values are stored position by position, (n_ctx, value_size); latent values are the
first numbers of the keys, and are not stored again (MLA, arXiv:2405.04434). `cache_types` has the types of both. Keys
that are quantised are multiplied as bytes; queries become records of activations (see `isa`).

The result of a row at position p depends only on the positions that it sees: 0 … p, or the last ones of a window; in
encoders all of the text, or half a window on each side. Scores are summed over the elements of the head in order. The
maximum, the sum of exponentials and the weighted sum of values are computed over positions in a fixed order. What the
cache holds elsewhere has no effect; it may be NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from llamafw import graph as g
from llamafw_backends.numba_cpu.attention_emit import emit_latent_values, emit_scores, sum_rows
from llamafw_backends.numba_cpu.cache import ANY_ISA
from llamafw_backends.numba_cpu.cache_types import CACHE_TYPES, CacheType, store_key, store_value
from llamafw_backends.numba_cpu.elementwise import quantize
from llamafw_backends.numba_cpu.hadamard import rotate
from llamafw_backends.numba_cpu.isa import MAX_ACTIVATION, RECORD_BYTES, InstructionSet
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler, jit
from llamafw_backends.numba_cpu.kernel_records import (
    CHUNKED,
    SLIDING,
    SYMMETRIC,
    attention_at,
    plan_at,
    rounding_at,
    row_at,
    row_op_at,
)
from llamafw_backends.numba_cpu.pages import PAGE
from llamafw_backends.numba_cpu.phases import OP_BYTES, call_row_kernel
from llamafw_backends.numba_cpu.row_kernels import tanh
from llamafw_backends.numba_cpu.runs import find_runs, max_runs_bytes
from llamafw_backends.numba_cpu.simd import (
    add,
    exp,
    first_lanes,
    load,
    load_f32,
    load_i64,
    max_lanes,
    maximum,
    mul,
    read_u32,
    specialised,
    splat,
    store,
    store_f32,
    sub,
    sum_lanes,
    zeros,
)
from llamafw_backends.numba_cpu.threads import barrier
from llamafw_backends.numba_cpu.value_emit import emit_values

MAX_DISTANCE = g.MAX_DISTANCE

_scores = specialised("scores", 4, 6, emit_scores)
_values = specialised("values", 3, 9, emit_values)
_latent_values = specialised("latent values", 4, 10, emit_latent_values)


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """The sizes of the keys and values that a slot keeps for a `Cache`."""

    n_head: int
    key_size: int
    value_size: int
    latent: bool = False  # values are the first numbers of the keys, and are not stored again
    window: int | None = None  # of all positions, at most the last ones are read; None: all
    whole_text: bool = False  # only for the texts of one ubatch; see `text_pages`

    @property
    def sizes(self) -> tuple[int, int]:
        """How many numbers of keys and of values are stored for each position and head."""
        return self.key_size, 0 if self.latent else self.value_size


def rows_at_once(n_rep: int, *, latent: bool) -> tuple[int, int]:
    """Return how many query heads of a KV head, and how many tokens, are computed together: at most 8 rows in all."""
    heads = next(h for h in range(min(n_rep, 8), 0, -1) if n_rep % h == 0)
    return heads, max(1, 6 // heads) if heads == n_rep and not latent else 1


@jit
def _adjust_scores(r: Any, scores: int, head: int, position: int, first: int, end: int) -> None:
    """Apply softcap, ALiBi and bias to scores of positions ``first`` … ``end - 1``; ``first`` is a multiple of 16."""
    if r.softcap != np.float32(0.0):
        cap, inverse = splat(r.softcap), splat(np.float32(1.0) / r.softcap)
        for i in range(4 * first, 4 * end, 64):
            store(mul(cap, tanh(mul(inverse, load(scores + i)))), scores + i)
    if r.alibi != 0:
        slope = load_f32(r.alibi + 4 * head)
        for i in range(first, end):
            store_f32(load_f32(scores + 4 * i) - slope * np.float32(abs(position - i)), scores + 4 * i)
    if r.position_bias != 0:
        bias = r.position_bias + 4 * (head * (2 * MAX_DISTANCE + 1) + MAX_DISTANCE)
        for i in range(first, end):
            far = min(max(i - position, -MAX_DISTANCE), MAX_DISTANCE)
            store_f32(load_f32(scores + 4 * i) + load_f32(bias + 4 * far), scores + 4 * i)


@jit
def _softmax(scores: int, start: int, first: int, n: int, has_sink: bool, sink: float) -> float:
    """Replace the scores s of positions ``first`` … ``n - 1`` by exp(s − max); return 1 / their sum.

    The scores from ``start`` to ``first`` become 0. ``start`` is a multiple of 16. A sink is one more score.
    """
    lowest = splat(np.float32(-3e38))
    n_blocks = (n + 15) // 16

    greatest = lowest
    for i in range(start // 16, n_blocks):
        visible = first_lanes(n - 16 * i, load(scores + 64 * i), lowest)
        if 16 * i < first:
            visible = first_lanes(first - 16 * i, lowest, visible)
        greatest = maximum(visible, greatest)
    top = max_lanes(greatest)
    if has_sink:
        top = max(top, sink)
    top_lanes = splat(top)

    total = zeros()
    for i in range(start // 16, n_blocks):
        e = first_lanes(n - 16 * i, exp(sub(load(scores + 64 * i), top_lanes)), zeros())
        if 16 * i < first:
            e = first_lanes(first - 16 * i, zeros(), e)
        total = add(total, e)
        store(e, scores + 64 * i)
    weight = sum_lanes(total)
    if has_sink:
        weight += sum_lanes(first_lanes(1, exp(splat(sink - top)), zeros()))
    return np.float32(1.0) / weight


@jit
def _first_visible(r: Any, position: int) -> int:
    """Return the first position that a query sees."""
    if r.window == 0:
        return 0
    if r.window_kind == CHUNKED:
        return position // r.window * r.window
    if r.window_kind == SYMMETRIC:
        return max(0, position - r.window // 2)
    return max(0, position - r.window + 1)


@jit
def _end_of_visible(r: Any, position: int, end: int) -> int:
    """Return the position behind the last one that a query sees, in a text of ``end`` positions."""
    if r.whole_text == 0:
        return position + 1
    if r.window == 0:
        return end
    if r.window_kind == CHUNKED:
        return min(end, position // r.window * r.window + r.window)
    if r.window_kind == SYMMETRIC:
        return min(end, position + r.window // 2 + 1)
    return end


@jit
def _apply_ops(plan: int, ops: int, n_ops: int, x: int, row: int, size: int) -> None:
    """Run row kernels on a head in place."""
    for i in range(n_ops):
        o = row_op_at(ops + i * OP_BYTES)
        call_row_kernel(o.kernel, plan, ops + i * OP_BYTES, x, 0, x + o.out, row, size, 0)


@jit
def _store_kv(
    plan: int,
    p: Any,
    r: Any,
    token: int,
    head: int,
    thread: int,
    key_size: int,
    value_size: int,
    scratch: int,
) -> None:
    """Compute the rest of a token's key and value, and write them into the cache."""
    i = 8 * (p.first + token)
    slot, position = load_i64(p.slots + i), load_i64(p.positions + i)
    is_single = p.n_tokens == 1
    k = row_at(p, r.k, r.k_stride, r.k_mode, token, thread, is_single) + 4 * key_size * head
    v = row_at(p, r.v, r.v_stride, r.v_mode, token, thread, is_single) + 4 * value_size * head
    _apply_ops(plan, r.k_ops, r.n_k_ops, k, token, key_size)
    _apply_ops(plan, r.v_ops, r.n_v_ops, v, token, value_size)

    number = read_u32(r.table + slot * r.table_slot + position // PAGE * 4)
    owner, place = number // r.n_pages, number % r.n_pages * PAGE + position % PAGE
    block = r.keys + owner * r.key_slot + head * r.key_head + place // 16 * r.key_block
    store_key(rounding_at(r.key_rounding), k, key_size, block, place % 16, scratch)
    row = r.values + owner * r.value_slot + head * r.value_head + place * r.value_row
    scales = r.scales + owner * r.scale_slot + head * r.scale_head + place // 16 * r.scale_block
    store_value(rounding_at(r.value_rounding), v, value_size, row, scales, place % 16, scratch)


@jit
def _store_queries(
    plan: int,
    p: Any,
    r: Any,
    token: int,
    head: int,
    thread: int,
    position: int,
    row: int,
    n_rows: int,
    size: int,
    to: int,
    scaled: int,
) -> None:
    """Compute the rest of a token's query head, and store it, multiplied by the scale.

    It becomes column ``row`` of (size, n_rows) float32 at ``to``. For quantised keys, ``scaled`` is the address of a
    buffer of ``size`` float32, otherwise 0; the query is rotated like the keys (see `hadamard`), and becomes column
    ``row`` of (size / 32, n_rows) records at ``to``.
    """
    q = row_at(p, r.q, r.q_stride, r.q_mode, token, thread, p.n_tokens == 1) + head * 4 * size
    _apply_ops(plan, r.q_ops, r.n_q_ops, q, token, size)
    factor = r.scale
    if r.temperature != np.float32(0.0):
        steps = (position + r.temperature_offset) // r.temperature_length
        factor *= np.float32(1.0 + r.temperature * math.log(1.0 + steps))
    if scaled == 0:
        for d in range(size):
            store_f32(load_f32(q + 4 * d) * factor, to + 4 * (d * n_rows + row))
        return
    for d in range(0, 4 * size, 64):
        store(mul(load(q + d), splat(factor)), scaled + d)
    rotate(scaled, size, scaled)
    for i in range(size // 32):
        quantize(scaled + 128 * i, to + RECORD_BYTES * (i * n_rows + row), MAX_ACTIVATION)


def build(
    compiler: KernelCompiler, isa: InstructionSet, n_rep: int, layout: CacheLayout, keys: CacheType, values: CacheType
) -> Any:
    """Compile the kernel ``attention(plan, record, thread)`` for ``n_rep`` query heads per KV head."""
    sizes = layout.key_size, layout.value_size, layout.latent
    name = f"attention {n_rep} x {layout.key_size} and {layout.value_size}, "
    name += f"latent, {keys.name}" if layout.latent else f"{keys.name} and {values.name}"
    isa_name = isa.name if keys.n_scales else ANY_ISA
    return compiler(name, 3, _attention(n_rep, *sizes, keys.name, values.name, isa_name), isa=isa_name)


def max_scores(window: int, n_ctx: int, window_kind: int = SLIDING) -> int:
    """Return how many scores a row has at most: those of whole blocks that the rows computed together see."""
    if window_kind == SYMMETRIC:
        window += 1  # half of it on each side of the token
    return min(n_ctx, window // 16 * 16 + 64) if window else n_ctx


def scratch_bytes(n_rep: int, layout: CacheLayout, n_scores: int) -> int:
    """Return the bytes that a thread needs for queries, sums, scores and runs of the rows computed together."""
    heads, tokens = rows_at_once(n_rep, latent=layout.latent)
    n_sums = layout.value_size * (sum_rows(heads) if layout.latent else heads * tokens)
    n_floats = (1 + heads * tokens) * layout.key_size + heads * tokens * n_scores + n_sums
    return 4 * n_floats + max_runs_bytes(n_scores)


def _attention(
    n_rep: int, key_size: int, value_size: int, latent: bool, keys: str, values: str, isa: str
) -> Callable[[int, int, int], int]:
    heads, max_tokens = rows_at_once(n_rep, latent=latent)
    max_rows = heads * max_tokens
    parts = n_rep // heads
    stored_size = 0 if latent else value_size  # of values
    n_sums = value_size * (sum_rows(heads) if latent else max_rows)
    is_quantised, has_rotated_values = CACHE_TYPES[keys].n_scales > 0, CACHE_TYPES[values].n_scales > 0

    def attention(plan: int, record: int, thread: int) -> int:
        p, r = plan_at(plan), attention_at(record)
        scratch = p.scratch + thread * p.scratch_stride
        sums = scratch + 4 * key_size * max_rows
        scores = sums + 4 * n_sums
        scaled = scores + 4 * r.n_scores * max_rows if is_quantised else 0
        runs = scores + 4 * r.n_scores * max_rows + 4 * key_size
        stride = 4 * r.n_scores

        # With one token per slot, the thread that computes a token's attention also writes its keys. Otherwise it may
        # need keys of other threads, so all keys are written first.
        writes_own_keys = parts == 1 and p.n_spans == p.n_tokens
        if r.stores and not writes_own_keys:
            for i in range(thread, p.n_tokens * r.n_head_kv, p.n_threads):
                token = i // r.n_head_kv
                _store_kv(plan, p, r, token, i % r.n_head_kv, thread, key_size, stored_size, scratch)
            barrier(p.pool, p.n_threads)

        per_item = r.n_head_kv * parts

        next_item = thread  # number of this thread's next item within the span; an item is a few tokens and heads
        for span in range(p.n_spans):
            slot, span_first = load_i64(p.spans + 32 * span), load_i64(p.spans + 32 * span + 8)
            span_tokens, span_position = load_i64(p.spans + 32 * span + 16), load_i64(p.spans + 32 * span + 24)
            n_groups, n_rest = span_tokens // max_tokens, span_tokens % max_tokens
            n_items = (n_groups + n_rest) * per_item
            while next_item < n_items:
                group = next_item // per_item
                offset = group * max_tokens if group < n_groups else n_groups * (max_tokens - 1) + group
                n_tokens = max_tokens if group < n_groups else 1
                first_token, position = span_first + offset, span_position + offset
                kv_head = next_item % per_item // parts
                first_head = kv_head * n_rep + next_item % parts * heads
                next_item += p.n_threads

                if r.stores and writes_own_keys:
                    _store_kv(plan, p, r, first_token, kv_head, thread, key_size, stored_size, scratch)
                cached_keys, cached_values = r.keys + kv_head * r.key_head, r.values + kv_head * r.value_head
                scales = r.scales + kv_head * r.scale_head
                n_rows = n_tokens * heads
                for t in range(n_tokens):
                    for h in range(heads):
                        _store_queries(
                            plan,
                            p,
                            r,
                            first_token + t,
                            first_head + h,
                            thread,
                            position + t,
                            t * heads + h,
                            n_rows,
                            key_size,
                            scratch,
                            scaled,
                        )

                seen = _first_visible(r, position)
                start = seen // 16 * 16
                weights = scores - 4 * start  # of position 0: the scores of a window begin with its first block
                text_end = span_position + span_tokens
                scored = _end_of_visible(r, position + n_tokens - 1, text_end)
                n_runs = find_runs(r, slot, start // 16, (scored + 15) // 16, runs)
                blocks = scratch, cached_keys, runs, n_runs, weights, stride
                if n_rows == max_rows:
                    _scores(max_rows, key_size, keys, isa, blocks)
                else:  # the item is a single token
                    _scores(heads, key_size, keys, isa, blocks)

                for row in range(n_rows):
                    head, last = first_head + row % heads, position + row // heads
                    end = _end_of_visible(r, last, text_end)
                    _adjust_scores(r, weights + row * stride, head, last, start, end)
                    sink = load_f32(r.sinks + 4 * head) if r.sinks != 0 else np.float32(0.0)
                    first = _first_visible(r, last)
                    inverse_sum = _softmax(weights + row * stride, start, first, end, r.sinks != 0, sink)
                    store_f32(inverse_sum, scratch + 4 * row)  # overwrites queries, which are no longer needed

                if latent:  # an item is a single token
                    out = r.out + first_token * r.out_stride + first_head * 4 * value_size
                    weighted = weights, stride, cached_keys, runs, n_runs, start, position + 1, sums, scratch, out
                    _latent_values(heads, key_size, value_size, keys, weighted)
                    continue

                for j in range(0, 4 * value_size * n_rows, 64):
                    store(zeros(), sums + j)
                # the positions that the first row sees are added for all rows, the others token by token
                shared = _end_of_visible(r, position, text_end)
                seen_by_all = weights, stride, cached_values, scales, runs, n_runs, seen, shared, sums
                if n_rows == max_rows:
                    _values(max_rows, value_size, values, seen_by_all)
                else:
                    _values(heads, value_size, values, seen_by_all)
                for t in range(1, n_tokens):
                    end = _end_of_visible(r, position + t, text_end)
                    if end == shared:
                        continue
                    row = t * heads
                    own_weights, own_sums = weights + row * stride, sums + 4 * value_size * row
                    own = own_weights, stride, cached_values, scales, runs, n_runs, shared, end, own_sums
                    _values(heads, value_size, values, own)

                for row in range(n_rows):
                    out = r.out + (first_token + row // heads) * r.out_stride
                    out += (first_head + row % heads) * 4 * value_size
                    inverse = splat(load_f32(scratch + 4 * row))
                    for j in range(0, 4 * value_size, 64):
                        store(mul(load(sums + 4 * value_size * row + j), inverse), out + j)
                    if has_rotated_values:
                        rotate(out, value_size, out)
            next_item -= n_items
        return 0

    return attention
