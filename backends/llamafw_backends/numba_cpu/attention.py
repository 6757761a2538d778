"""Compute attention over the KV cache, for a few query rows that share a KV head.

A row is one query head of one token. Keys are stored in blocks of 16 positions, (n_ctx / 16, head_size, 16): a vector
holds the same element of 16 keys. Values are stored position by position, (n_ctx, head_size).

The result of a row at position p depends only on positions 0 … p. Scores are summed over the elements of the head in
order. The maximum, the sum of exponentials and the weighted sum of values are computed over positions in order. What
the cache holds after position p has no effect; it may be NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.elementwise import apply_rope
from llamafw_backends.numba_cpu.emit import F32, FLOATS, I64, Builder, Value, address, constant
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler, jit
from llamafw_backends.numba_cpu.kernel_records import plan_at
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
    splat,
    store,
    store_f16,
    store_f32,
    store_half,
    sub,
    sum_lanes,
    zeros,
)
from llamafw_backends.numba_cpu.threads import barrier

ELEMENT_BYTES = {"f16": 2, "f32": 4}
_ACCUMULATORS = 24  # registers for sums: AVX-512 has 32; for other sets the compiler spills some


def rows_at_once(n_rep: int) -> tuple[int, int]:
    """Return how many query heads of a KV head, and how many tokens, are computed together: at most 8 rows in all."""
    heads = next(h for h in range(min(n_rep, 8), 0, -1) if n_rep % h == 0)
    return heads, max(1, 6 // heads) if heads == n_rep else 1


def _load(b: Builder, where: Value, kind: str) -> Value:
    return emit.load_half(b, where) if kind == "f16" else emit.load(b, where, FLOATS)


def _emit_scores(b: Builder, values: list[Value], n_rows: int, size: int, kind: str) -> None:
    """Emit the scores of ``n_rows`` rows for ``n`` blocks of 16 keys.

    Queries are (size, n_rows) float32.
    """
    queries, keys, n, scores, stride = values
    vector_bytes = emit.LANES * ELEMENT_BYTES[kind]

    def emit_blocks(count: Value, first: Value, at_once: int) -> None:
        def score_blocks(i: Value, _: list[Value]) -> list[Value]:
            block = b.add(first, b.mul(i, constant(I64, at_once)))
            base = b.add(keys, b.mul(block, constant(I64, size * vector_bytes)))

            def element(d: Value, sums: list[Value]) -> list[Value]:
                vectors = [
                    _load(
                        b, address(b, b.add(base, b.mul(d, constant(I64, vector_bytes))), size * vector_bytes * k), kind
                    )
                    for k in range(at_once)
                ]
                query = b.add(queries, b.mul(d, constant(I64, 4 * n_rows)))
                new_sums = []
                for r in range(n_rows):
                    q = emit.load_splat(b, address(b, query, 4 * r), F32)
                    new_sums += [emit.fma(b, q, vectors[k], sums[r * at_once + k]) for k in range(at_once)]
                return new_sums

            sums = emit.loop(b, constant(I64, size), [constant(FLOATS, 0.0)] * (n_rows * at_once), element)
            for r in range(n_rows):
                row = b.add(scores, b.mul(stride, constant(I64, r)))
                row = b.add(row, b.mul(block, constant(I64, 64)))
                for k in range(at_once):
                    emit.store(b, sums[r * at_once + k], address(b, row, 64 * k))
            return []

        emit.loop(b, count, [], score_blocks)

    at_once = max(1, min(4, 16 // n_rows))
    emit_blocks(b.sdiv(n, constant(I64, at_once)), constant(I64, 0), at_once)
    if at_once > 1:
        rest = b.srem(n, constant(I64, at_once))
        emit_blocks(rest, b.sub(n, rest), 1)


def _emit_values(b: Builder, values: list[Value], n_rows: int, size: int, kind: str) -> None:
    """Emit adding the weighted values of positions ``first`` … ``last - 1`` to ``out``, (n_rows, size) float32."""
    weights, stride, cached, first, last, out = values
    n_vectors, vector_bytes = size // emit.LANES, emit.LANES * ELEMENT_BYTES[kind]
    at_once = max(1, min(4, _ACCUMULATORS // n_rows))

    for start in range(0, n_vectors, at_once):
        vectors = range(start, min(start + at_once, n_vectors))
        places = [address(b, out, 4 * size * r + 64 * v) for r in range(n_rows) for v in vectors]

        def add_position(i: Value, sums: list[Value], vectors: range = vectors) -> list[Value]:
            position = b.add(first, i)
            value = b.add(cached, b.mul(position, constant(I64, n_vectors * vector_bytes)))
            loaded = [_load(b, address(b, value, vector_bytes * v), kind) for v in vectors]
            new_sums = []
            for r in range(n_rows):
                where = b.add(b.add(weights, b.mul(stride, constant(I64, r))), b.mul(position, constant(I64, 4)))
                weight = emit.load_splat(b, where, F32)
                new_sums += [emit.fma(b, weight, v, s) for v, s in zip(loaded, sums[r * len(vectors) :], strict=False)]
            return new_sums

        sums = emit.loop(b, b.sub(last, first), [emit.load(b, place, FLOATS) for place in places], add_position)
        for total, place in zip(sums, places, strict=True):
            emit.store(b, total, place)


def _specialised(name: str, n_arguments: int, emitter: Callable[..., None]) -> Any:
    """Return an intrinsic ``f(n_rows, size, kind, arguments)`` that calls the code emitted for the first three.

    They must be literals. ``arguments`` is a tuple of ``n_arguments`` int64.
    """

    @intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]  # numba has no types
    def operation(context: Any, n_rows: Any, size: Any, kind: Any, arguments: Any) -> Any:
        literals = n_rows.literal_value, size.literal_value, kind.literal_value

        def lower(context: Any, b: Builder, _: Any, values: list[Value]) -> Value:
            def body(inner: Builder, unpacked: list[Value]) -> None:
                emitter(inner, unpacked, *literals)

            function = emit.function(b.module, f"{name}.{literals}", n_arguments, body)
            b.call(function, [b.extract_value(values[3], i) for i in range(n_arguments)])
            return context.get_dummy_value()

        return types.void(n_rows, size, kind, types.UniTuple(types.int64, n_arguments)), lower

    return operation


_scores = _specialised("scores", 5, _emit_scores)
_values = _specialised("values", 6, _emit_values)


@jit
def _softmax(scores: int, n: int) -> float:
    """Replace ``n`` scores s by exp(s − max); return 1 / their sum."""
    lowest = splat(np.float32(-3e38))
    n_blocks = (n + 15) // 16

    greatest = lowest
    for i in range(n_blocks):
        greatest = maximum(first_lanes(n - 16 * i, load(scores + 64 * i), lowest), greatest)
    top = splat(max_lanes(greatest))

    total = zeros()
    for i in range(n_blocks):
        e = first_lanes(n - 16 * i, exp(sub(load(scores + 64 * i), top)), zeros())
        total = add(total, e)
        store(e, scores + 64 * i)
    return np.float32(1.0) / sum_lanes(total)


@jit
def _store_kv(p: Any, layer: int, token: int, head: int, keys: str, values: str) -> None:
    """Rotate a token's key by its position (RoPE), and write its key and value into the cache."""
    size, i = p.head_size, 8 * (p.first + token)
    slot, position = load_i64(p.slots + i), load_i64(p.positions + i)
    k, v = p.k + token * p.kv_stride + 4 * size * head, p.v + token * p.kv_stride + 4 * size * head
    apply_rope(k, p.rope + position * 4 * p.n_rot, p.n_rot)

    key = p.keys + slot * p.key_slot + layer * p.key_layer + head * p.key_head
    value = p.values + slot * p.value_slot + layer * p.value_layer + head * p.value_head
    first = position // 16 * 16 * size + position % 16  # index of the key's first element; the next one is 16 later

    if keys == "f16":
        for d in range(size):
            store_f16(load_f32(k + 4 * d), key + 2 * (first + 16 * d))
    else:
        for d in range(size):
            store_f32(load_f32(k + 4 * d), key + 4 * (first + 16 * d))
    for d in range(0, size, 16):
        if values == "f16":
            store_half(load(v + 4 * d), value + 2 * (position * size + d))
        else:
            store(load(v + 4 * d), value + 4 * (position * size + d))


def build(compiler: KernelCompiler, n_rep: int, size: int, keys: str, values: str) -> Any:
    """Compile the kernel ``attention(plan, layer, thread)`` for ``n_rep`` query heads per KV head."""
    return compiler(f"attention {n_rep} x {size}, {keys} and {values}", 3, _attention(n_rep, size, keys, values))


def scratch_bytes(n_rep: int, size: int, n_ctx: int) -> int:
    """Return the bytes that a thread needs for the queries, sums and scores of the rows computed together."""
    heads, tokens = rows_at_once(n_rep)
    return heads * tokens * 4 * (2 * size + n_ctx)


def _attention(n_rep: int, size: int, keys: str, values: str) -> Callable[..., int]:
    heads, max_tokens = rows_at_once(n_rep)
    max_rows = heads * max_tokens
    parts = n_rep // heads

    def attention(plan: int, layer: int, thread: int) -> int:
        p = plan_at(plan)
        # With one token per slot, the thread that computes a token's attention also writes its keys. Otherwise it may
        # need keys of other threads, so all keys are written first.
        writes_own_keys = parts == 1 and p.n_runs == p.n_batch
        if not writes_own_keys:
            for i in range(thread, p.n_tokens * p.n_head_kv, p.n_threads):
                token = i // p.n_head_kv
                _store_kv(p, layer, token, i % p.n_head_kv, keys, values)
            barrier(p.pool, p.n_threads)

        scratch = p.scratch + thread * p.scratch_stride
        sums = scratch + 4 * size * max_rows
        scores = sums + 4 * size * max_rows
        stride = 4 * p.n_scores
        per_item = p.n_head_kv * parts

        for i in range(thread, p.n_items * per_item, p.n_threads):
            item = p.items + 16 * (i // per_item)
            first_token, n_tokens = load_i64(item), load_i64(item + 8)
            kv_head = i % per_item // parts
            first_head = kv_head * n_rep + i % parts * heads
            slot = load_i64(p.slots + 8 * (p.first + first_token))
            position = load_i64(p.positions + 8 * (p.first + first_token))
            if writes_own_keys:
                _store_kv(p, layer, first_token, kv_head, keys, values)
            cached_keys = p.keys + slot * p.key_slot + layer * p.key_layer + kv_head * p.key_head
            cached_values = p.values + slot * p.value_slot + layer * p.value_layer + kv_head * p.value_head
            n_rows = n_tokens * heads

            # store the queries, rotated and scaled, as (size, n_rows)
            for t in range(n_tokens):
                for h in range(heads):
                    q = p.q + (first_token + t) * p.q_stride + (first_head + h) * 4 * size
                    apply_rope(q, p.rope + (position + t) * 4 * p.n_rot, p.n_rot)
                    for d in range(size):
                        store_f32(load_f32(q + 4 * d) * p.attention_scale, scratch + 4 * (d * n_rows + t * heads + h))

            n_blocks = (position + n_tokens + 15) // 16
            if n_rows == max_rows:
                _scores(max_rows, size, keys, (scratch, cached_keys, n_blocks, scores, stride))
            else:  # the item is a single token
                _scores(heads, size, keys, (scratch, cached_keys, n_blocks, scores, stride))

            for j in range(0, 4 * size * n_rows, 64):
                store(zeros(), sums + j)
            for r in range(n_rows):
                n = position + 1 + r // heads
                inverse_sum = _softmax(scores + r * stride, n)
                store_f32(inverse_sum, scratch + 4 * r)  # overwrites queries, which are no longer needed

            shared = position + 1  # positions that all rows see; the others are added token by token
            if n_rows == max_rows:
                _values(max_rows, size, values, (scores, stride, cached_values, 0, shared, sums))
            else:
                _values(heads, size, values, (scores, stride, cached_values, 0, shared, sums))
            for t in range(1, n_tokens):
                row = t * heads
                own = (scores + row * stride, stride, cached_values, shared, shared + t, sums + 4 * size * row)
                _values(heads, size, values, own)

            for r in range(n_rows):
                out = p.attention_out + (first_token + r // heads) * p.q_stride + (first_head + r % heads) * 4 * size
                inverse = splat(load_f32(scratch + 4 * r))
                for j in range(0, 4 * size, 64):
                    store(mul(load(sums + 4 * size * r + j), inverse), out + j)
        return 0

    return attention
