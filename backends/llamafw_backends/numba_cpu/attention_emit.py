"""Emit the inner loops of attention: scores of keys, and sums of weighted values.

The layouts of keys and values are those of `attention`. Each result is summed in an order that depends only on the
positions in the cache, whatever is computed together.
"""

from __future__ import annotations

from llvmlite import ir

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.cache_types import CACHE_TYPES
from llamafw_backends.numba_cpu.emit import F32, FLOATS, I64, INTS, Builder, Value, address, constant, larger, smaller
from llamafw_backends.numba_cpu.instruction_sets import INSTRUCTION_SETS
from llamafw_backends.numba_cpu.isa import RECORD_BYTES
from llamafw_backends.numba_cpu.runs import Run
from llamafw_backends.numba_cpu.tiles import COLUMNS, QuantFormat, Record

_BYTES_AHEAD = 8192  # distance of prefetches
_CHUNK = 32  # blocks of keys whose values are summed before lanes are added; they fit into a second-level cache
_GROUPS_AHEAD = 4  # the same, for latent values


def emit_scores(b: Builder, values: list[Value], n_rows: int, size: int, kind: str, isa: str) -> None:
    """Emit the scores of ``n_rows`` rows for all keys of ``runs`` (see `runs`).

    Queries are (size, n_rows) float32, or for quantised keys (size / 32, n_rows) records (see `isa`); ``scores`` are
    those of position 0.
    """
    queries, keys, runs, n_runs, scores, stride = values
    block_bytes = CACHE_TYPES[kind].format.tile_bytes(size)
    at_once = 1 if CACHE_TYPES[kind].n_scales else max(1, min(4, 16 // n_rows))

    def emit_blocks(keys: Value, scores: Value, count: Value, first: Value, at_once: int) -> None:
        def score_blocks(i: Value, _: list[Value]) -> list[Value]:
            block = b.add(first, b.mul(i, constant(I64, at_once)))
            base = b.add(keys, b.mul(block, constant(I64, block_bytes)))
            bases = [address(b, base, block_bytes * k) for k in range(at_once)]
            sums = _emit_products(b, queries, bases, n_rows, size, kind, isa)
            for r in range(n_rows):
                row = b.add(scores, b.mul(stride, constant(I64, r)))
                row = b.add(row, b.mul(block, constant(I64, 64)))
                for k in range(at_once):
                    emit.store(b, sums[r * at_once + k], address(b, row, 64 * k))
            return []

        emit.loop(b, count, [], score_blocks)

    def score_run(i: Value, _: list[Value]) -> list[Value]:
        run = Run.load(b, runs, i)
        n = b.sub(run.end, run.first)
        run_keys = b.add(b.add(keys, run.keys), b.mul(run.first, constant(I64, block_bytes)))
        run_scores = b.add(scores, b.mul(run.first, constant(I64, 64)))
        rest = b.srem(n, constant(I64, at_once))
        emit_blocks(run_keys, run_scores, b.sdiv(n, constant(I64, at_once)), constant(I64, 0), at_once)
        if at_once > 1:
            emit_blocks(run_keys, run_scores, rest, b.sub(n, rest), 1)
        return []

    emit.loop(b, n_runs, [], score_run)


def _emit_products(
    b: Builder, queries: Value, blocks: list[Value], n_rows: int, size: int, kind: str, isa: str
) -> list[Value]:
    """Emit the products of queries and blocks of keys; number r · len(blocks) + k is that of row r and block k."""
    tile, n = CACHE_TYPES[kind].format, len(blocks)

    def add_element(d: Value, sums: list[Value]) -> list[Value]:
        vectors = [_load(b, b.add(block, b.mul(d, constant(I64, _vector_bytes(kind)))), kind) for block in blocks]
        query, new_sums = b.add(queries, b.mul(d, constant(I64, 4 * n_rows))), []
        n_bytes = n * _vector_bytes(kind)
        after = address(b, b.add(blocks[0], b.mul(d, constant(I64, n_bytes))), size * n_bytes)
        for line in range(0, n_bytes, 64):
            emit.prefetch(b, address(b, after, line))  # of the next blocks, in the order of addresses
        for r in range(n_rows):
            q = emit.load_splat(b, address(b, query, 4 * r), F32)
            new_sums += [emit.fma(b, q, vectors[k], sums[r * n + k]) for k in range(n)]
        return new_sums

    def add_record(i: Value, sums: list[Value]) -> list[Value]:
        query = b.add(queries, b.mul(i, constant(I64, RECORD_BYTES * n_rows)))
        rows, records = [address(b, query, RECORD_BYTES * r) for r in range(n_rows)], []
        for block in blocks:
            words = b.add(block, b.mul(i, constant(I64, tile.word_bytes)))
            scales = address(b, block, size // COLUMNS * tile.word_bytes)
            scales = b.add(scales, b.mul(i, constant(I64, tile.scale_bytes)))
            records.append(Record(b, words, scales, constant(I64, 0), n_rows))
            for line in range(0, tile.word_bytes, 64):
                emit.prefetch(b, address(b, words, _BYTES_AHEAD + line))
        products = tile.multiply(records, INSTRUCTION_SETS[isa], rows, [sums[k::n] for k in range(n)])
        return [products[k][r] for r in range(n_rows) for k in range(n)]

    zeros = [constant(FLOATS, 0.0)] * (n_rows * n)
    if isinstance(tile, QuantFormat):
        return emit.loop(b, constant(I64, size // COLUMNS), zeros, add_record)
    return emit.loop(b, constant(I64, size), zeros, add_element)


def _load(b: Builder, where: Value, kind: str) -> Value:
    """Emit loading the same element of 16 keys that are not quantised."""
    return CACHE_TYPES[kind].load(b, where, 0)


def _vector_bytes(kind: str) -> int:
    """Return the size of the same element of 16 keys."""
    return CACHE_TYPES[kind].row_bytes(emit.LANES)


def emit_latent_values(b: Builder, values: list[Value], n_rows: int, key_size: int, size: int, kind: str) -> None:
    """Emit the weighted sums of the values of positions ``start`` … ``last - 1``, which are the first numbers of keys.

    They are in ``runs`` (see `runs`). Row r of ``out``, (n_rows, size) float32, is multiplied by number r of
    ``factors``. ``start`` is a multiple of 16. Lane i of a sum has the positions i, i + 16 … of a chunk; then the lanes
    are added to ``sums``, which is (size, `sum_rows`) float32.
    """
    weights, stride, keys, runs, n_runs, start, last, sums_at, factors, out = values
    vector_bytes = _vector_bytes(kind)
    block_bytes = key_size * vector_bytes
    n_added = sum_rows(n_rows) - n_rows
    at_once = emit.LANES // sum_rows(n_rows)  # elements whose sums are one vector; there are at most 16 accumulators
    n_groups = size // at_once
    n_full, first_block = b.sdiv(last, constant(I64, 16)), b.sdiv(start, constant(I64, 16))
    first_chunk, rest = b.sdiv(first_block, constant(I64, _CHUNK)), b.srem(last, constant(I64, 16))
    end = b.add(n_full, b.select(b.icmp_signed(">", rest, constant(I64, 0)), constant(I64, 1), constant(I64, 0)))
    lanes = ir.Constant(INTS, list(range(emit.LANES)))
    is_visible = b.icmp_signed("<", lanes, emit.splat(b, b.trunc(rest, emit.I32)))

    def add_chunk(i: Value, _: list[Value]) -> list[Value]:
        chunk = b.mul(b.add(first_chunk, i), constant(I64, _CHUNK))
        low, high = larger(b, chunk, first_block), smaller(b, b.add(chunk, constant(I64, _CHUNK)), end)
        full = smaller(b, high, n_full)

        def count_runs(i: Value, counts: list[Value]) -> list[Value]:
            run = Run.load(b, runs, i)
            before, until = b.icmp_signed("<=", run.end, low), b.icmp_signed("<", run.first, high)
            return [b.add(n, b.zext(is_counted, I64)) for n, is_counted in zip(counts, (before, until), strict=True)]

        first_run, end_run = emit.loop(b, n_runs, [constant(I64, 0)] * 2, count_runs)
        last_run = Run.load(b, runs, b.sub(end_run, constant(I64, 1)))

        def add_group(group: Value, _: list[Value]) -> list[Value]:
            base = b.add(keys, b.mul(group, constant(I64, at_once * vector_bytes)))
            ahead = b.add(base, constant(I64, _GROUPS_AHEAD * at_once * vector_bytes))
            beyond = b.icmp_signed(">=", group, constant(I64, n_groups - _GROUPS_AHEAD))  # in the next chunk
            jump = constant(I64, _CHUNK * block_bytes - size * vector_bytes)
            ahead = b.select(beyond, b.add(ahead, jump), ahead)

            def add_blocks(run: Run, first: Value, end: Value, sums: list[Value], *, partial: bool) -> list[Value]:
                def add_block(j: Value, sums: list[Value]) -> list[Value]:
                    block = b.add(first, j)
                    offset = b.add(run.keys, b.mul(block, constant(I64, block_bytes)))
                    for byte in range(0, at_once * vector_bytes, 64):
                        emit.prefetch(b, address(b, b.add(ahead, offset), byte))
                    loaded = [_load(b, address(b, b.add(base, offset), vector_bytes * d), kind) for d in range(at_once)]
                    if partial:
                        loaded = [b.select(is_visible, x, constant(FLOATS, 0.0)) for x in loaded]
                    row = b.add(weights, b.mul(block, constant(I64, 64)))
                    weight = [emit.load(b, b.add(row, b.mul(stride, constant(I64, r))), FLOATS) for r in range(n_rows)]
                    pairs = [(w, value) for value in loaded for w in weight]
                    return [emit.fma(b, w, value, s) for (w, value), s in zip(pairs, sums, strict=True)]

                return emit.loop(b, b.sub(end, first), sums, add_block)

            def add_run(i: Value, sums: list[Value]) -> list[Value]:
                run = Run.load(b, runs, b.add(first_run, i))
                return add_blocks(run, larger(b, low, run.first), smaller(b, full, run.end), sums, partial=False)

            sums = [constant(FLOATS, 0.0)] * (at_once * n_rows)
            sums = emit.loop(b, b.sub(end_run, first_run), sums, add_run)
            sums = add_blocks(last_run, full, high, sums, partial=True)
            vectors = []
            for n in range(0, len(sums), n_rows):
                vectors += [*sums[n : n + n_rows], *[constant(FLOATS, 0.0)] * n_added]
            place = b.add(sums_at, b.mul(group, constant(I64, 64)))
            emit.store(b, b.fadd(emit.load(b, place, FLOATS), _sum_each(b, vectors)), place)
            return []

        emit.loop(b, constant(I64, n_groups), [], add_group)
        return []

    def clear(i: Value, _: list[Value]) -> list[Value]:
        emit.store(b, constant(FLOATS, 0.0), b.add(sums_at, b.mul(i, constant(I64, 64))))
        return []

    def write_rows(i: Value, _: list[Value]) -> list[Value]:
        first = b.add(sums_at, b.mul(i, constant(I64, 64 * sum_rows(n_rows))))
        vectors = [emit.load(b, address(b, first, 64 * k), FLOATS) for k in range(sum_rows(n_rows))]
        for r, row in enumerate(_split_rows(b, vectors)[:n_rows]):
            factor = emit.load_splat(b, address(b, factors, 4 * r), F32)
            emit.store(b, b.fmul(row, factor), b.add(address(b, out, 4 * size * r), b.mul(i, constant(I64, 64))))
        return []

    end_chunk = b.sdiv(b.add(end, constant(I64, _CHUNK - 1)), constant(I64, _CHUNK))
    emit.loop(b, constant(I64, n_groups), [], clear)
    emit.loop(b, b.sub(end_chunk, first_chunk), [], add_chunk)
    emit.loop(b, constant(I64, size // emit.LANES), [], write_rows)


def sum_rows(n_rows: int) -> int:
    """Return how many sums of latent values are stored for each element: a power of two."""
    return next(n for n in (1, 2, 4, 8) if n >= n_rows)


def _split_rows(b: Builder, vectors: list[Value]) -> list[Value]:
    """Emit the transpose of (16, n) numbers in n vectors: vector r has the numbers r, r + n, r + 2n …"""
    if len(vectors) == 1:
        return vectors
    pairs = list(zip(vectors[::2], vectors[1::2], strict=True))
    even, odd = (_split_rows(b, [_choose(b, x, y, list(range(k, 32, 2))) for x, y in pairs]) for k in (0, 1))
    return [row for both in zip(even, odd, strict=True) for row in both]


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
