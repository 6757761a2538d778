"""Compute attention over the KV cache, for a few query rows that share a KV head.

A row is one query head of one token. Keys are stored in blocks of 16 positions, which are tiles of 16 rows: a vector
holds the same element of 16 keys. Values are stored position by position, (n_ctx, value_size); latent values are the
first numbers of the keys, and are not stored again (MLA, arXiv:2405.04434). `cache_types` has the types of both. Keys
that are quantised are multiplied as bytes; queries become records of activations (see `isa`).

The result of a row at position p depends only on the positions that it sees: 0 … p, or the last ones of a window; in
encoders all of the text, or half a window on each side. Scores are summed over the elements of the head in order. The
sum of exponentials and the weighted sum of values are computed over the positions of each segment (see `softmax`) in a
fixed order, and then over segments. What the cache holds elsewhere has no effect; it may be NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from llamafw_backends.numba_cpu.attention_emit import emit_latent_values, emit_scores, sum_rows
from llamafw_backends.numba_cpu.cache import ANY_ISA
from llamafw_backends.numba_cpu.cache_types import CACHE_TYPES, CacheType, store_key, store_value
from llamafw_backends.numba_cpu.elementwise import quantize
from llamafw_backends.numba_cpu.hadamard import rotate
from llamafw_backends.numba_cpu.isa import MAX_ACTIVATION, RECORD_BYTES, InstructionSet
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler, jit
from llamafw_backends.numba_cpu.kernel_records import attention_at, plan_at, rounding_at, row_at, row_op_at
from llamafw_backends.numba_cpu.memory import align_up
from llamafw_backends.numba_cpu.pages import PAGE
from llamafw_backends.numba_cpu.phases import OP_BYTES, call_row_kernel
from llamafw_backends.numba_cpu.runs import find_runs, max_runs_bytes
from llamafw_backends.numba_cpu.simd import (
    fma,
    load,
    load_f32,
    load_i64,
    mul,
    read_u32,
    specialised,
    splat,
    store,
    store_f32,
    zeros,
)
from llamafw_backends.numba_cpu.softmax import adjust_scores, end_of_visible, first_visible, join_softmax, softmax
from llamafw_backends.numba_cpu.threads import barrier, work_range
from llamafw_backends.numba_cpu.value_emit import emit_values

SHARED_ITEMS = 4
"""Threads share the segments of items if there are at most this many items per thread; with more, an uneven share costs
little."""

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


def area_bytes(n_rep: int, layout: CacheLayout, n_segments: int) -> int:
    """Return the bytes of an item's area: its queries, and for each segment maxima, sums and weighted sums of values.

    Parameters
    ----------
    n_rep : int
        Query heads per KV head.
    layout : CacheLayout
        Sizes of keys and values.
    n_segments : int
        Largest number of segments that are read.
    """
    heads, tokens = rows_at_once(n_rep, latent=layout.latent)
    return align_up(4 * heads * tokens * (layout.key_size + n_segments * (layout.value_size + 2)))


def scratch_bytes(n_rep: int, layout: CacheLayout, n_scores: int, n_segments: int) -> int:
    """Return the bytes that a thread needs: areas, and sums, scores and runs of the rows computed together.

    Parameters
    ----------
    n_rep, layout, n_segments
        See `area_bytes`.
    n_scores : int
        Largest number of positions of a segment that are read.
    """
    heads, tokens = rows_at_once(n_rep, latent=layout.latent)
    n_sums = layout.value_size * sum_rows(heads) if layout.latent else 0
    n_floats = n_sums + heads * tokens * n_scores + layout.key_size
    n_floats += layout.value_size + 16  # `store_key` and `store_value` need 16 more than a key or a value has
    return SHARED_ITEMS * area_bytes(n_rep, layout, n_segments) + 4 * n_floats + max_runs_bytes(n_scores)


@jit
def _tokens_of(group: int, n_tokens: int, max_tokens: int) -> tuple[int, int]:
    """Return the first token of a group of a span, and how many it has: most groups have ``max_tokens``, the rest 1."""
    n_groups = n_tokens // max_tokens
    if group < n_groups:
        return group * max_tokens, max_tokens
    return n_groups * (max_tokens - 1) + group, 1


@jit
def _segments_of(r: Any, position: int, n_tokens: int, text_end: int) -> tuple[int, int]:
    """Return the first segment that the tokens from ``position`` on see, and the one after the last."""
    end = end_of_visible(r, position + n_tokens - 1, text_end)
    return first_visible(r, position) // r.segment, (end + r.segment - 1) // r.segment


@jit
def _count_items(p: Any, r: Any, max_tokens: int, per_group: int) -> tuple[int, int]:
    """Return how many items there are, and how many segments they have together; -1 if they are too many to share."""
    n_items, n_segments = 0, 0
    for span in range(p.n_spans):
        n_tokens, position = load_i64(p.spans + 32 * span + 16), load_i64(p.spans + 32 * span + 24)
        n_groups = n_tokens // max_tokens + n_tokens % max_tokens
        n_items += n_groups * per_group
        if n_items > SHARED_ITEMS * p.n_threads:
            return n_items, -1
        for group in range(n_groups):
            offset, n = _tokens_of(group, n_tokens, max_tokens)
            first, end = _segments_of(r, position + offset, n, position + n_tokens)
            n_segments += (end - first) * per_group
    return n_items, n_segments


def _attention(
    n_rep: int, key_size: int, value_size: int, latent: bool, keys: str, values: str, isa: str
) -> Callable[[int, int, int], int]:
    heads, max_tokens = rows_at_once(n_rep, latent=latent)
    max_rows = heads * max_tokens
    parts = n_rep // heads
    stored_size = 0 if latent else value_size  # of values
    sums_bytes = 4 * value_size * sum_rows(heads) if latent else 0
    is_quantised, has_rotated_values = CACHE_TYPES[keys].n_scales > 0, CACHE_TYPES[values].n_scales > 0

    def attention(plan: int, record: int, thread: int) -> int:
        p, r = plan_at(plan), attention_at(record)
        own = p.scratch + thread * p.scratch_stride
        sums = own + SHARED_ITEMS * r.area_bytes
        scores = sums + sums_bytes
        own_factors = scores + 4 * r.n_scores * max_rows  # of latent values, whose keys are not quantised
        scaled = own_factors if is_quantised else 0
        runs = own_factors + 4 * key_size
        stride = 4 * r.n_scores

        # With one token per slot, the thread that stores a token's queries also writes its keys. Otherwise a thread may
        # need keys of others, so all keys are written first.
        writes_own_keys = parts == 1 and p.n_spans == p.n_tokens
        if r.stores and not writes_own_keys:
            for i in range(thread, p.n_tokens * r.n_head_kv, p.n_threads):
                token = i // r.n_head_kv
                _store_kv(plan, p, r, token, i % r.n_head_kv, thread, key_size, stored_size, sums)
            barrier(p.pool, p.n_threads)

        # An item is a few tokens and heads. A thread computes items of its own, or all share the segments of each: then
        # one stores the queries, and joins the segments when all threads are finished.
        per_group = r.n_head_kv * parts
        n_all, n_segments = _count_items(p, r, max_tokens, per_group)
        is_shared = p.n_threads > 1 and n_segments > n_all
        first_own, end_own = work_range(n_segments, thread, p.n_threads)
        for stage in range(3 if is_shared else 1):
            number = segments_before = 0  # items, and their segments
            next_item = 0 if is_shared else thread  # number of this thread's next item within the span
            for span in range(p.n_spans):
                slot, span_first = load_i64(p.spans + 32 * span), load_i64(p.spans + 32 * span + 8)
                span_tokens, span_position = load_i64(p.spans + 32 * span + 16), load_i64(p.spans + 32 * span + 24)
                text_end = span_position + span_tokens
                n_items = (span_tokens // max_tokens + span_tokens % max_tokens) * per_group
                while next_item < n_items:
                    offset, n_tokens = _tokens_of(next_item // per_group, span_tokens, max_tokens)
                    first_token, position = span_first + offset, span_position + offset
                    kv_head = next_item % per_group // parts
                    first_head = kv_head * n_rep + next_item % parts * heads
                    next_item += 1 if is_shared else p.n_threads
                    n_rows = n_tokens * heads

                    area, is_own = own, True
                    if is_shared:
                        is_own = number % p.n_threads == thread
                        area = p.scratch + number % p.n_threads * p.scratch_stride
                        area += number // p.n_threads * r.area_bytes
                        number += 1
                    weighted = area + 4 * key_size * max_rows
                    maxima = weighted + 4 * value_size * max_rows * r.n_segments
                    first_segment, end_segment = _segments_of(r, position, n_tokens, text_end)

                    if is_own and stage == 0:
                        if r.stores and writes_own_keys:
                            _store_kv(plan, p, r, first_token, kv_head, thread, key_size, stored_size, sums)
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
                                    area,
                                    scaled,
                                )

                    low, high = first_segment, end_segment
                    if is_shared:
                        low = max(low, first_segment + first_own - segments_before)
                        high = min(high, first_segment + end_own - segments_before) if stage == 1 else low
                        segments_before += end_segment - first_segment
                    for segment in range(low, high):
                        seen = max(first_visible(r, position), segment * r.segment)
                        start, limit = seen // 16 * 16, (segment + 1) * r.segment
                        segment_weights = scores - 4 * start  # of position 0
                        scored = min(end_of_visible(r, position + n_tokens - 1, text_end), limit)
                        n_runs = find_runs(r, slot, start // 16, (scored + 15) // 16, runs)
                        cached_keys, cached_values = r.keys + kv_head * r.key_head, r.values + kv_head * r.value_head
                        scales = r.scales + kv_head * r.scale_head
                        blocks = area, cached_keys, runs, n_runs, segment_weights, stride
                        if n_rows == max_rows:
                            _scores(max_rows, key_size, keys, isa, blocks)
                        else:  # the item is a single token
                            _scores(heads, key_size, keys, isa, blocks)

                        results = maxima + 8 * max_rows * (segment - first_segment)
                        for row in range(n_rows):
                            head, last = first_head + row % heads, position + row // heads
                            end = min(end_of_visible(r, last, text_end), limit)
                            row_scores = segment_weights + row * stride
                            adjust_scores(r, row_scores, head, last, start, end)
                            softmax(row_scores, start, first_visible(r, last), end, results + 8 * row)

                        out = weighted + 4 * value_size * max_rows * (segment - first_segment)
                        if latent:  # an item is a single token
                            for row in range(n_rows):
                                store_f32(np.float32(1.0), own_factors + 4 * row)
                            memory = segment_weights, stride, cached_keys, runs, n_runs, start, scored, sums
                            _latent_values(heads, key_size, value_size, keys, (*memory, own_factors, out))
                            continue

                        for j in range(0, 4 * value_size * n_rows, 64):
                            store(zeros(), out + j)
                        # the positions that the first row sees are added for all rows, the others token by token
                        shared = min(end_of_visible(r, position, text_end), limit)
                        seen_by_all = segment_weights, stride, cached_values, scales, runs, n_runs, seen, shared, out
                        if n_rows == max_rows:
                            _values(max_rows, value_size, values, seen_by_all)
                        else:
                            _values(heads, value_size, values, seen_by_all)
                        for t in range(1, n_tokens):
                            end, row = min(end_of_visible(r, position + t, text_end), limit), t * heads
                            if end > max(shared, seen):
                                row_weights, row_out = segment_weights + row * stride, out + 4 * value_size * row
                                more = cached_values, scales, runs, n_runs, max(shared, seen), end, row_out
                                _values(heads, value_size, values, (row_weights, stride, *more))

                    if is_own and (stage == 2 or not is_shared):
                        n = end_segment - first_segment
                        for row in range(n_rows):
                            sink = r.sinks + 4 * (first_head + row % heads) if r.sinks != 0 else 0
                            inverse = splat(join_softmax(maxima + 8 * row, n, 8 * max_rows, sink))
                            out = r.out + (first_token + row // heads) * r.out_stride
                            out += (first_head + row % heads) * 4 * value_size
                            for j in range(0, 4 * value_size, 64):
                                total = zeros()
                                for i in range(n):
                                    factor = splat(load_f32(maxima + 8 * (max_rows * i + row)))
                                    part = weighted + 4 * value_size * (max_rows * i + row) + j
                                    total = fma(factor, load(part), total)
                                store(mul(total, inverse), out + j)
                            if has_rotated_values:
                                rotate(out, value_size, out)
                next_item -= n_items
            if is_shared and stage < 2:
                barrier(p.pool, p.n_threads)
        return 0

    return attention
