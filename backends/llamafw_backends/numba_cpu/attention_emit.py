"""Emit the inner loops of attention: scores of keys, and sums of weighted values.

The layouts of keys and values are those of `attention`. Each result is summed in an order that depends only on the
positions in the cache, whatever is computed together.
"""

from __future__ import annotations

from llvmlite import ir

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.emit import F32, FLOATS, I64, INTS, Builder, Value, address, constant

ELEMENT_BYTES = {"f16": 2, "f32": 4}
_ACCUMULATORS = 24  # registers for sums: AVX-512 has 32; for other sets the compiler spills some
_CHUNK = 32  # blocks of keys whose values are summed before lanes are added; they fit into a second-level cache
_GROUPS_AHEAD = 4  # distance of prefetches


def _load(b: Builder, where: Value, kind: str) -> Value:
    return emit.load_half(b, where) if kind == "f16" else emit.load(b, where, FLOATS)


def emit_scores(b: Builder, values: list[Value], n_rows: int, size: int, kind: str) -> None:
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


def emit_values(b: Builder, values: list[Value], n_rows: int, size: int, kind: str) -> None:
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


def emit_latent_values(b: Builder, values: list[Value], n_rows: int, key_size: int, size: int, kind: str) -> None:
    """Emit adding the weighted values of positions ``start`` … ``last - 1``, which are the first numbers of keys.

    The result ``out`` is (size, n_rows) float32, with 64 more bytes. ``start`` is a multiple of 16. Lane i of a sum has
    the positions i, i + 16 … of a chunk; then the lanes are added.
    """
    weights, stride, keys, start, last, out = values
    vector_bytes = emit.LANES * ELEMENT_BYTES[kind]
    block_bytes = key_size * vector_bytes
    at_once = next(n for n in (16, 8, 4, 2, 1) if n * n_rows <= _ACCUMULATORS)  # elements; size is a multiple of 16
    n_groups = size // at_once
    n_full, first_block = b.sdiv(last, constant(I64, 16)), b.sdiv(start, constant(I64, 16))
    first_chunk, rest = b.sdiv(first_block, constant(I64, _CHUNK)), b.srem(last, constant(I64, 16))
    end = b.add(n_full, b.select(b.icmp_signed(">", rest, constant(I64, 0)), constant(I64, 1), constant(I64, 0)))
    lanes = ir.Constant(INTS, list(range(emit.LANES)))
    is_visible = b.icmp_signed("<", lanes, emit.splat(b, b.trunc(rest, emit.I32)))

    def add_chunk(i: Value, _: list[Value]) -> list[Value]:
        chunk = b.mul(b.add(first_chunk, i), constant(I64, _CHUNK))
        low, high = _larger(b, chunk, first_block), _smaller(b, b.add(chunk, constant(I64, _CHUNK)), end)
        full = _smaller(b, high, n_full)

        def add_group(group: Value, _: list[Value]) -> list[Value]:
            base = b.add(keys, b.mul(group, constant(I64, at_once * vector_bytes)))
            ahead = b.add(base, constant(I64, _GROUPS_AHEAD * at_once * vector_bytes))
            beyond = b.icmp_signed(">=", group, constant(I64, n_groups - _GROUPS_AHEAD))  # in the next chunk
            jump = constant(I64, _CHUNK * block_bytes - size * vector_bytes)
            ahead = b.select(beyond, b.add(ahead, jump), ahead)

            def add_blocks(first: Value, count: Value, sums: list[Value], *, partial: bool) -> list[Value]:
                def add_block(j: Value, sums: list[Value]) -> list[Value]:
                    block = b.add(first, j)
                    offset = b.mul(block, constant(I64, block_bytes))
                    for byte in range(0, at_once * vector_bytes, 64):
                        emit.prefetch(b, address(b, b.add(ahead, offset), byte))
                    loaded = [_load(b, address(b, b.add(base, offset), vector_bytes * d), kind) for d in range(at_once)]
                    if partial:
                        loaded = [b.select(is_visible, x, constant(FLOATS, 0.0)) for x in loaded]
                    row = b.add(weights, b.mul(block, constant(I64, 64)))
                    weight = [emit.load(b, b.add(row, b.mul(stride, constant(I64, r))), FLOATS) for r in range(n_rows)]
                    return [
                        emit.fma(b, weight[r], loaded[d], sums[d * n_rows + r])
                        for d in range(at_once)
                        for r in range(n_rows)
                    ]

                return emit.loop(b, count, sums, add_block)

            sums = [constant(FLOATS, 0.0)] * (at_once * n_rows)
            sums = add_blocks(low, b.sub(full, low), sums, partial=False)
            sums = add_blocks(full, b.sub(high, full), sums, partial=True)
            place = b.add(out, b.mul(group, constant(I64, 4 * at_once * n_rows)))
            for n in range(0, len(sums), emit.LANES):
                part = [*sums[n : n + emit.LANES], *[constant(FLOATS, 0.0)] * (emit.LANES - len(sums[n:]))]
                where = address(b, place, 4 * n)
                emit.store(b, b.fadd(emit.load(b, where, FLOATS), _sum_each(b, part)), where)
            return []

        emit.loop(b, constant(I64, n_groups), [], add_group)
        return []

    end_chunk = b.sdiv(b.add(end, constant(I64, _CHUNK - 1)), constant(I64, _CHUNK))
    emit.loop(b, b.sub(end_chunk, first_chunk), [], add_chunk)


def _sum_each(b: Builder, vectors: list[Value]) -> Value:
    """Emit a vector whose lane i is the sum of the lanes of ``vectors[i]``, added in the order of `emit.reduce`."""
    width = emit.LANES
    while len(vectors) > 1:
        n, width = len(vectors) // 2, width // 2
        starts = [part + other for part in range(0, emit.LANES, 2 * width) for other in (0, emit.LANES)]
        first = [start + lane for start in starts for lane in range(width)]
        second = [lane + width for lane in first]
        vectors = [
            b.fadd(_choose(b, x, y, first), _choose(b, x, y, second))
            for x, y in zip(vectors[:n], vectors[n:], strict=True)
        ]
    return vectors[0]


def _choose(b: Builder, x: Value, y: Value, lanes: list[int]) -> Value:
    """Emit a vector of lanes of ``x`` and, from number 16 on, of ``y``."""
    return b.shuffle_vector(x, y, ir.Constant(INTS, lanes))


def _smaller(b: Builder, x: Value, y: Value) -> Value:
    return b.select(b.icmp_signed("<", x, y), x, y)


def _larger(b: Builder, x: Value, y: Value) -> Value:
    return b.select(b.icmp_signed(">", x, y), x, y)
