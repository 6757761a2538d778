"""Kernels for mixtures of experts: the pairs of a token and one of its experts are sorted by expert.

Each expert then multiplies all its tokens at once, and only the experts that some token uses are read. If there is only
one token, each thread sorts its pairs for itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llamafw_backends.numba_cpu.elementwise import store_activations, token_group
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.kernel_records import (
    COLUMNS,
    MATRIX,
    I,
    accessor,
    columns_at,
    fields_of,
    matrix_at,
    named,
    plan_at,
    row_at,
    row_op_at,
)
from llamafw_backends.numba_cpu.matmul import matmul
from llamafw_backends.numba_cpu.phases import CHUNK_FLOATS, OP_BYTES, call_row_kernel, n_rows_of
from llamafw_backends.numba_cpu.simd import load_f32, load_i64, store_f32, store_i64
from llamafw_backends.numba_cpu.threads import work_range

SORT = np.dtype(
    [
        *named(I, "stage n_used n_expert"),
        *named(I, "chosen chosen_stride chosen_mode"),  # (n_used,) int64 per token
        *named(I, "places places_stride places_mode"),  # (n_used,) int64 per token: each pair's place after sorting
        *named(I, "table table_stride"),  # see `table_bytes`; from thread to thread, if there is only one token
    ]
)
"""The arguments of `sort`."""

GATHER = np.dtype(
    [
        *named(I, "stage n_used n_expert n_columns layouts"),
        *named(
            I, "x x_stride x_mode x_step"
        ),  # a row per token; x_step: bytes between those of its pairs, 0 for the same
        *named(I, "table table_stride"),
        *named(I, "records floats records_stride floats_stride"),  # activations of the pairs
    ]
)
"""The arguments of `gather_activations`."""

EXPERTS = np.dtype(
    [
        *fields_of(COLUMNS),
        *named(I, "n_expert table table_stride"),
        *named(I, "records_row floats_row"),  # bytes per pair of the result's activations
    ]
)
"""The arguments of `expert_columns`: those of `phases.columns`, which it begins with, and more."""

_sort_at, _gather_at, _experts_at = accessor(SORT), accessor(GATHER), accessor(EXPERTS)
_MATRIX_BYTES = MATRIX.itemsize


def table_bytes(n_expert: int, n_used: int) -> int:
    """Return the bytes per token of a table of pairs.

    The table has int64 numbers: how many experts are used; the experts that are used, ascending; for each expert, the
    number of the first of its pairs, and in the end the number of all pairs; for each pair, its number before sorting:
    ``token · n_used + i`` for the i-th expert of a token.
    """
    return 8 * (2 * n_expert + 2 + n_used)


@jit
def _firsts(table: int, n_expert: int) -> int:
    return table + 8 * (1 + n_expert)


@jit
def _unsorted(table: int, n_expert: int) -> int:
    return table + 8 * (2 * n_expert + 2)


def sort(plan: int, record: int, thread: int) -> int:
    """Sort the pairs of all tokens by expert; an expert's pairs keep the order of the tokens."""
    p, s = plan_at(plan), _sort_at(record)
    n = n_rows_of(p, s.stage)
    is_single = n == 1
    if thread != 0 and not is_single:
        return 0
    table = s.table + (thread * s.table_stride if is_single else 0)
    firsts, unsorted = _firsts(table, s.n_expert), _unsorted(table, s.n_expert)

    for expert in range(s.n_expert + 1):
        store_i64(0, firsts + 8 * expert)
    for row in range(n):
        chosen = row_at(p, s.chosen, s.chosen_stride, s.chosen_mode, row, thread, is_single)
        for i in range(s.n_used):
            count = firsts + 8 * (load_i64(chosen + 8 * i) + 1)
            store_i64(load_i64(count) + 1, count)
    n_active = 0
    for expert in range(s.n_expert):
        count = load_i64(firsts + 8 * (expert + 1))
        if count > 0:
            n_active += 1
            store_i64(expert, table + 8 * n_active)
        store_i64(load_i64(firsts + 8 * expert) + count, firsts + 8 * (expert + 1))
    store_i64(n_active, table)

    for row in range(n):  # firsts become the ends of the pairs sorted so far
        chosen = row_at(p, s.chosen, s.chosen_stride, s.chosen_mode, row, thread, is_single)
        places = row_at(p, s.places, s.places_stride, s.places_mode, row, thread, is_single)
        for i in range(s.n_used):
            expert = load_i64(chosen + 8 * i)
            place = load_i64(firsts + 8 * expert)
            store_i64(place + 1, firsts + 8 * expert)
            store_i64(place, places + 8 * i)
            store_i64(row * s.n_used + i, unsorted + 8 * place)
    for expert in range(s.n_expert - 1, 0, -1):
        store_i64(load_i64(firsts + 8 * (expert - 1)), firsts + 8 * expert)
    store_i64(0, firsts)
    return 0


def gather_activations(plan: int, record: int, thread: int) -> int:
    """Store the rows of the pairs as activations, expert by expert; a row of a single token's pairs is stored once."""
    p, g = plan_at(plan), _gather_at(record)
    n = n_rows_of(p, g.stage)
    is_single = n == 1
    base, to_records, to_floats = g.table, g.records, g.floats
    first, last = work_range(n * g.n_used, thread, p.n_threads)
    if is_single:  # each thread for itself
        base, first, last = g.table + thread * g.table_stride, 0, g.n_used
        to_records, to_floats = g.records + thread * g.records_stride, g.floats + thread * g.floats_stride
        if g.x_step == 0:
            x = row_at(p, g.x, g.x_stride, g.x_mode, 0, thread, is_single)
            store_activations(x, 0, g.n_columns, g.n_columns, 0, 0, 1, g.layouts, to_records, to_floats)
            return 0

    firsts, unsorted = _firsts(base, g.n_expert), _unsorted(base, g.n_expert)
    records_row, floats_row = g.records_stride // g.n_used, g.floats_stride // g.n_used
    for active in range(load_i64(base)):
        expert = load_i64(base + 8 * (active + 1))
        start, end = load_i64(firsts + 8 * expert), load_i64(firsts + 8 * (expert + 1))
        for pair in range(max(first, start), min(last, end)):
            number = load_i64(unsorted + 8 * pair)
            x = row_at(p, g.x, g.x_stride, g.x_mode, number // g.n_used, thread, is_single)
            x += number % g.n_used * g.x_step
            group, width = token_group(p.widths, end - start, pair - start)
            records, floats = to_records + start * records_row, to_floats + start * floats_row
            store_activations(x, 0, g.n_columns, g.n_columns, pair - start, group, width, g.layouts, records, floats)
    return 0


def expert_columns(plan: int, record: int, thread: int) -> int:
    """Compute elementwise operators of products of the pairs, in groups of columns that stay in the cache."""
    p, c, e = plan_at(plan), columns_at(record), _experts_at(record)
    is_single = n_rows_of(p, c.stage) == 1
    table = e.table + (thread * e.table_stride if is_single else 0)
    firsts, scratch, width = _firsts(table, e.n_expert), p.scratch + thread * p.scratch_stride, 16 * c.unit
    n_units = (c.n_columns + width - 1) // width
    unit, last_unit = work_range(load_i64(table) * n_units, thread, p.n_threads)

    while unit < last_unit:
        expert = load_i64(table + 8 * (unit // n_units + 1))
        first, n = load_i64(firsts + 8 * expert), load_i64(firsts + 8 * (expert + 1)) - load_i64(firsts + 8 * expert)
        column = unit % n_units
        end = min(n_units, column + last_unit - unit, column + max(1, CHUNK_FLOATS // (width * n)))
        _compute(plan, p, c, e, thread, is_single, expert, first, n, column, end, scratch)
        unit += end - column
    return 0


@jit
def _compute(
    plan: int,
    p: Any,
    c: Any,
    e: Any,
    thread: int,
    is_single: bool,
    expert: int,
    first: int,
    n: int,
    column: int,
    end: int,
    scratch: int,
) -> None:
    """Compute the units ``column`` … ``end - 1`` for the ``n`` pairs of an expert, the first of which is ``first``."""
    width = 16 * c.unit
    stride = 4 * width * (end - column)
    for i in range(c.n_inputs):
        record = c.inputs + i * _MATRIX_BYTES
        m = matrix_at(record)
        tile = expert * m.part_tiles + m.first_tile
        records, floats = m.records + first * m.records_row, m.floats + first * m.floats_row
        if is_single and m.records_stride != 0:  # each thread has stored the input for itself
            row = first if m.has_pair_rows else 0
            records = m.records + thread * m.records_stride + row * m.records_row
            floats = m.floats + thread * m.floats_stride + row * m.floats_row
        first_tile, last_tile = tile + c.unit * column, tile + c.unit * end
        product = scratch + m.slot * n * stride
        buffer = p.buffer + thread * p.buffer_stride
        matmul(record, p.widths, buffer, records, floats, n, first_tile, last_tile, product, stride, 0)
        if m.scales != 0:
            factor, bias = load_f32(m.scales + 4 * expert), m.biases + 64 * (tile + c.unit * column)
            for row in range(product, product + n * stride, stride):
                for j in range(0, stride, 4):
                    value = load_f32(row + j) * factor
                    store_f32(value + load_f32(bias + j) if m.biases != 0 else value, row + j)

    for row in range(n):
        for i in range(c.n_ops):
            op = c.ops + i * OP_BYTES
            o = row_op_at(op)
            a, b = scratch + (o.a * n + row) * stride, scratch + (o.b * n + row) * stride
            out = scratch + (o.out * n + row) * stride
            call_row_kernel(o.kernel, plan, op, a, b, out, row, width * (end - column), width * column)

        result = scratch + (c.result * n + row) * stride
        if c.layouts != 0:
            start, group = token_group(p.widths, n, row)
            records, floats = c.records + first * e.records_row, c.floats + first * e.floats_row
            store_activations(
                result, width * column, width * end, c.n_columns, row, start, group, c.layouts, records, floats
            )
        else:
            target = c.out + (first + row) * c.out_stride + 4 * width * column
            for i in range(0, stride, 4):
                store_f32(load_f32(result + i), target + i)
