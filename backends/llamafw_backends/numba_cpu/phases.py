"""Kernels of the phases that compute rows and products: ``kernel(plan, record, thread) -> 0``.

Threads divide the tokens in operations on rows, and the tiles in matrix products. If there is only one row, each thread
computes operations on rows for itself, because that takes less time than a barrier.
"""

from __future__ import annotations

from typing import Any

from llamafw_backends.numba_cpu.elementwise import store_activations, token_group
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.kernel_records import (
    HIDDEN,
    LOGITS,
    MATRIX,
    ROW_OP,
    SELECTION,
    columns_at,
    matrix_at,
    plan_at,
    row_at,
    row_op_at,
    rows_at,
    select_at,
    selection_at,
)
from llamafw_backends.numba_cpu.matmul import matmul, width_for
from llamafw_backends.numba_cpu.simd import call_address, load_f32, load_i64, store_f32
from llamafw_backends.numba_cpu.threads import work_range

CHUNK_FLOATS = 32768  # products of one matrix that a thread computes before it uses them: 128 KiB of its L2 cache
MIN_SUM_TILES = 8  # computed before other products are added to them, as many as `unpacked` unpacks at once
OP_BYTES = ROW_OP.itemsize
_MATRIX_BYTES, _SELECTION_BYTES = MATRIX.itemsize, SELECTION.itemsize
call_row_kernel = call_address(8)


@jit
def n_rows_of(p: Any, stage: int) -> int:
    """Return the number of rows that a stage computes."""
    return p.n_tokens if stage == 0 else p.n_outputs


@jit
def result_at(p: Any, out: int, mode: int) -> int:
    """Return the address of the first row of a result."""
    if mode == LOGITS:
        return p.logits
    return p.hidden if mode == HIDDEN else out


def rows(plan: int, record: int, thread: int) -> int:
    """Run operators on this thread's rows, one row after the other."""
    p, r = plan_at(plan), rows_at(record)
    n = n_rows_of(p, r.stage)
    is_single = n == 1
    first, last = work_range(n, thread, p.n_threads)
    if is_single and r.redundant:
        first, last = 0, 1

    for row in range(first, last):
        for i in range(r.n_ops):
            op = r.ops + i * OP_BYTES
            o = row_op_at(op)
            a = row_at(p, o.a, o.a_stride, o.a_mode, row, thread, is_single)
            b = row_at(p, o.b, o.b_stride, o.b_mode, row, thread, is_single)
            out = row_at(p, o.out, o.out_stride, o.out_mode, row, thread, is_single)
            call_row_kernel(o.kernel, plan, op, a, b, out, row, o.size, 0)
    return 0


@jit
def _multiply(
    p: Any, record: int, thread: int, n: int, first: int, last: int, out: int, out_stride: int, add: int
) -> None:
    """Multiply the tiles ``first`` … ``last - 1`` of a matrix with all rows."""
    m = matrix_at(record)
    records = m.records + (thread * m.records_stride if n == 1 else 0)
    floats = m.floats + (thread * m.floats_stride if n == 1 else 0)
    buffer = p.buffer + thread * p.buffer_stride
    matmul(record, p.widths, buffer, records, floats, n, first, last, out, out_stride, add)


def matrix(plan: int, record: int, thread: int) -> int:
    """Multiply this thread's tiles of a matrix with the activations of all rows, and add further products."""
    p, m = plan_at(plan), matrix_at(record)
    n = n_rows_of(p, m.stage)
    target = result_at(p, m.out, m.out_mode)
    first, last = work_range(m.n_parts * m.used_tiles, thread, p.n_threads)
    if m.n_parts == 1:
        at_once = max(MIN_SUM_TILES, CHUNK_FLOATS // (16 * n)) if m.n_more else max(1, last - first)
        for tile in range(first, last, at_once):
            end, out = min(tile + at_once, last), target + 64 * tile
            _multiply(p, record, thread, n, m.first_tile + tile, m.first_tile + end, out, m.out_stride, m.add)
            for i in range(m.n_more):
                other = m.more + i * _MATRIX_BYTES
                start = matrix_at(other).first_tile
                _multiply(p, other, thread, n, start + tile, start + end, out, m.out_stride, 1)
        return 0

    records = m.records + (thread * m.records_stride if n == 1 else 0)
    floats = m.floats + (thread * m.floats_stride if n == 1 else 0)
    buffer = p.buffer + thread * p.buffer_stride
    while first < last:
        part = first // m.used_tiles
        end = min(last, (part + 1) * m.used_tiles)
        out = target + part * m.out_part + 64 * (first - part * m.used_tiles)
        part_records, part_floats = records + part * n * m.records_row, floats + part * n * m.floats_row
        offset = part * (m.part_tiles - m.used_tiles) + m.first_tile  # from the tiles that are used to all tiles
        tile, last_tile = first + offset, end + offset
        if m.is_split:
            _multiply_part(p, record, buffer, floats, n, part, tile, last_tile, out)
        else:
            matmul(record, p.widths, buffer, part_records, part_floats, n, tile, last_tile, out, m.out_stride, m.add)
        first = end
    return 0


@jit
def _multiply_part(
    p: Any, record: int, buffer: int, floats: int, n: int, part: int, tile: int, last_tile: int, out: int
) -> None:
    """Multiply tiles of part ``part`` of a split matrix with its columns of all rows, one group of tokens at a time."""
    m, row = matrix_at(record), 0
    column_bytes = m.floats_row // m.n_parts
    while row < n:
        width = width_for(p.widths, n - row)
        part_floats = floats + row * m.floats_row + part * width * column_bytes
        matmul(record, p.widths, buffer, 0, part_floats, width, tile, last_tile, out, m.out_stride, 0)
        out += width * m.out_stride
        row += width


def columns(plan: int, record: int, thread: int) -> int:
    """Compute elementwise operators of products, in groups of columns that stay in the cache.

    ``first``, ``last``, ``column`` and ``end`` count units of columns.
    """
    p, c = plan_at(plan), columns_at(record)
    n, scratch = n_rows_of(p, c.stage), p.scratch + thread * p.scratch_stride
    width = 16 * c.unit
    first, last = work_range((c.n_columns + width - 1) // width, thread, p.n_threads)
    at_once = max(1, CHUNK_FLOATS // (width * n))

    for column in range(first, last, at_once):
        end = min(column + at_once, last)
        stride = 4 * width * (end - column)
        n_numbers, offset = width * (end - column), 64 * c.unit * column
        for i in range(c.n_inputs):
            m = c.inputs + i * _MATRIX_BYTES
            x = matrix_at(m)
            first_tile, last_tile = x.first_tile + c.unit * column, x.first_tile + c.unit * end
            _multiply(p, m, thread, n, first_tile, last_tile, scratch + x.slot * n * stride, stride, x.add)

        for row in range(n):
            for i in range(c.n_ops):
                op = c.ops + i * OP_BYTES
                o = row_op_at(op)
                a, b, out = (
                    scratch + (o.a * n + row) * stride,
                    scratch + (o.b * n + row) * stride,
                    scratch + (o.out * n + row) * stride,
                )
                call_row_kernel(o.kernel, plan, op, a, b, out, row, n_numbers, width * column)

            result = scratch + (c.result * n + row) * stride
            if c.layouts != 0:
                start, group = token_group(p.widths, n, row)
                store_activations(
                    result,
                    width * column,
                    width * end,
                    c.n_columns,
                    row,
                    start,
                    group,
                    c.layouts,
                    c.records,
                    c.floats,
                )
            else:
                target = result_at(p, c.out, c.out_mode) + row * c.out_stride + offset
                for i in range(0, stride, 4):
                    store_f32(load_f32(result + i), target + i)
    return 0


def select(plan: int, record: int, thread: int) -> int:
    """Move the rows of the ubatch's outputs to the front of each buffer."""
    p, s = plan_at(plan), select_at(record)
    if thread != 0 or p.n_outputs == p.n_tokens:
        return 0
    for i in range(s.n_buffers):
        buffer = selection_at(s.buffers + i * _SELECTION_BYTES)
        n_copies = p.n_threads if buffer.private and p.n_outputs == 1 else 1
        for row in range(p.n_outputs):
            source = buffer.buffer + (load_i64(p.outputs + 8 * (p.first_output + row)) - p.first) * buffer.stride
            for copy in range(n_copies):
                target = buffer.buffer + (row + copy) * buffer.stride
                if target != source:
                    for j in range(0, buffer.stride, 4):
                        store_f32(load_f32(source + j), target + j)
    return 0
