"""The records that Python and kernels share: numpy arrays of one element in Python, pointers in kernels.

Comments give the shapes of the arrays that addresses point to. All strides are in bytes. A buffer has one row per
token, or one row per thread: `row_at` explains the modes.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.simd import operation

I, J, F = np.int64, np.int32, np.float32  # noqa: E741  # short names for the tables below

SHARED, PRIVATE, TRANSIENT, GROUPED, LOGITS, HIDDEN = range(6)
"""How the row of a token is found in a buffer:

SHARED: one row per token.
PRIVATE: the same, but if there is only one token, each thread computes the row for itself, in a row of its own.
TRANSIENT: one row per thread, used for one token after the other.
GROUPED: activations, whose place `elementwise.token_group` determines; a single token's as with PRIVATE.
LOGITS, HIDDEN: the rows that the step returns.
"""

BATCH_BARRIER, SINGLE_BARRIER, SELECT_BARRIER = 1, 2, 4
"""When threads wait for each other before a phase: with several rows, with one row, if rows are selected."""


def named(kind: Any, names: str) -> list[tuple[str, Any]]:
    """Return fields of the same type."""
    return [(name, kind) for name in names.split()]


def fields_of(dtype: np.dtype[np.void]) -> list[tuple[str, Any]]:
    """Return the fields of a record."""
    return [(name, dtype[name]) for name in dtype.names or ()]


TOKENS, POSITIONS, TYPES = range(3)
"""What an embedding has rows for."""

SLIDING, CHUNKED, SYMMETRIC = range(3)
"""The kinds of windows of attention."""

TENSOR = np.dtype(
    [
        ("kernel", I),  # address of the matmul kernel for the matrix's format
        ("weights", I),  # tiles
        ("tile_bytes", I),  # size of a tile
        ("n_tiles", I),
        ("n_records", I),  # steps of multiplication per tile; see `tiles.Format`
        ("start", I),  # initial values of the sums: (16 · n_tiles,) float32 bias, or 16 zeros
        ("start_stride", I),  # from tile to tile: 64, or 0 for zeros
        ("layout", I),  # of the activations it is multiplied with: tiles.Q8_LAYOUT or tiles.F32_LAYOUT
    ]
)
"""A matrix of weights, or several of the same shape, one after the other."""

ROW_OP = np.dtype(
    [
        ("kernel", I),  # see `row_kernels`
        *named(I, "a b out"),
        *named(J, "a_stride b_stride out_stride"),
        *named(J, "a_mode b_mode out_mode"),
        ("stage", J),  # 0: the rows are the ubatch's tokens; 1: its outputs
        ("size", J),  # numbers in the row of the result
        *named(J, "n_parts n"),  # the row has parts (heads) of n numbers
        *named(J, "a_step b_step out_step"),  # from part to part
        ("weight_parts", J),  # parts that have weights of their own; they are used in turn
        *named(F, "x y"),
        *named(J, "function count repeat tile"),
        *named(I, "weight bias"),  # float32
        ("table", I),  # cosines and sines; the rows of an embedding
        *named(J, "row_bytes block_size block_bytes"),  # of an embedding
        ("unpack", I),  # address of the kernel that unpacks a block; 0: rows are in ``embedded``
        ("embedded", I),  # (n_batch, n) float32
        ("ids", J),  # of the rows: `TOKENS`, `POSITIONS` or `TYPES`
        ("layouts", J),  # of activations, as bits
    ]
)
"""An operator that computes a row from one or two others."""

PHASE = np.dtype(
    [
        ("kernel", I),  # kernel(plan, record, thread) -> 0
        ("record", I),
        ("barrier", J),  # bits: BATCH_BARRIER, SINGLE_BARRIER, SELECT_BARRIER
        ("stage", J),  # as in ROW_OP
        ("n_bytes", I),  # of the records of the phase, which follow one another
    ]
)
"""A part of a step that all threads compute together."""

ROWS = np.dtype(
    [
        ("stage", I),
        ("redundant", I),  # whether each thread computes a single row for itself
        ("ops", I),  # (n_ops,) ROW_OP
        ("n_ops", I),
    ]
)
"""The arguments of `phases.rows`."""

MATRIX = np.dtype(
    [
        *fields_of(TENSOR),  # a copy
        ("stage", I),
        *named(I, "n_parts part_tiles"),  # matrices of the tensor, and the tiles of each
        *named(I, "first_tile used_tiles"),  # of each matrix, those that are multiplied
        ("is_split", I),  # 1: the matrices have adjacent columns of one, and are multiplied with parts of each row
        *named(I, "records floats"),  # activations in either layout
        *named(I, "records_stride floats_stride"),  # from thread to thread, if there is only one row
        *named(I, "records_row floats_row"),  # bytes per token and part
        ("has_pair_rows", I),  # 0: all pairs of a token and an expert have the same row
        *named(I, "out out_stride out_mode out_part"),
        ("add", I),  # 1: the product is added to ``out``
        *named(I, "more n_more"),  # (n_more,) MATRIX: further products, which are added to the first
        ("slot", I),  # where the product goes, if it is one of several in groups of columns
        ("scales", I),  # (n_parts,) float32: factors of the products of experts, or 0
        ("biases", I),  # (n_parts, rows) float32: added after the factor, or 0
    ]
)
"""The arguments of `phases.matrix`: a product with a matrix."""

COLUMNS = np.dtype(
    [
        ("stage", I),
        *named(I, "inputs n_inputs"),  # (n_inputs,) MATRIX
        *named(I, "ops n_ops"),  # (n_ops,) ROW_OP: operands are numbers of slots
        *named(I, "n_slots result"),  # the slot of the result
        *named(I, "n_columns unit"),  # columns are computed in groups of ``unit`` tiles
        *named(I, "out out_stride out_mode"),  # the rows of the result, if it is not stored as activations
        *named(I, "layouts records floats"),
    ]
)
"""The arguments of `phases.columns`: elementwise operators of products."""

ROUNDING = np.dtype(
    [
        *named(I, "round pack"),  # addresses of the kernels `cache_types.CacheType.round` and `tiles.Format.pack`
        *named(I, "is_float32 columns"),  # whether nothing is rounded; how many numbers are rounded at once
        *named(I, "n_scales row_bytes"),  # of these numbers: scales and minima; bytes in a row of values
        *named(I, "n_blocks block_bytes"),  # of the file's layout, in these numbers
        *named(I, "word_bytes scale_bytes"),  # of such a block in a block of keys
        ("scales", I),  # place of the scales in a block of keys
    ]
)
"""How keys or values are stored: the arguments of `cache_types.store_key` and `store_value`."""

ATTENTION = np.dtype(
    [
        *named(I, "q q_stride q_mode k k_stride k_mode v v_stride v_mode out out_stride"),
        *named(I, "q_ops n_q_ops k_ops n_k_ops v_ops n_v_ops"),  # ROW_OP, applied to each head in place
        *named(I, "n_head_kv stores"),  # whether the phase writes the cache
        *named(I, "table table_slot n_pages"),  # pages of the slots, int32; how many each slot has memory for
        *named(I, "keys values key_slot key_head value_slot value_head"),  # the cache
        *named(I, "key_block value_row"),  # bytes of a block of keys, and of the values of a position
        *named(I, "scales scale_slot scale_head scale_block"),  # of values: scales of 16 positions
        *named(I, "key_rounding value_rounding"),  # ROUNDING
        *named(I, "n_scores segment n_segments area_bytes"),  # see `softmax`, `attention.area_bytes`
        *named(I, "window window_kind whole_text"),  # window: 0 for none
        *named(F, "scale softcap temperature"),  # softcap, temperature: 0 for none
        *named(I, "temperature_length temperature_offset"),
        *named(I, "sinks alibi"),  # (n_head,) float32, or 0
        ("position_bias", I),  # (n_head, 2 · MAX_DISTANCE + 1) float32, or 0
    ]
)
"""The arguments of an attention kernel."""

SELECTION = np.dtype([*named(I, "buffer stride private")])
"""A buffer of which only the rows of the outputs are needed from here on."""

SELECT = np.dtype([*named(I, "buffers n_buffers")])
"""The arguments of `phases.select`: (n_buffers,) SELECTION."""

PLAN = np.dtype(
    [
        *named(I, "phases n_phases"),  # (n_phases,) PHASE
        ("pool", I),  # threads.POOL
        ("step", I),  # address of the kernel `forward.step`
        ("widths", I),  # (…,) int64: the instruction set's widths
        *named(I, "n_vocab n_slots n_ctx n_ubatch"),
        ("filled", I),  # (n_slots,) int64: number of positions in each slot
        ("writable", I),  # (n_slots, 2) int64: positions that each slot can write; see `pages`
        ("scratch", I),  # buffers of the threads
        ("scratch_stride", I),  # from thread to thread
        ("buffer", I),  # where threads unpack tiles; see `unpacked`
        ("buffer_stride", I),
        *named(I, "logits logits_stride hidden hidden_stride"),  # rows of the outputs, float32
        # the batch
        ("n_batch", I),  # number of tokens
        ("n_threads", I),
        *named(I, "tokens positions types slots"),  # (n_batch,) int64
        ("outputs", I),  # int64 each: indices of tokens in the batch
        *named(I, "scales scales_stride"),  # rows of the batch's `TokenScales`, float32
        *named(I, "given given_stride"),  # rows of the batch's `HiddenRows`, float32
        *named(I, "kept kept_stride"),  # rows of the batch's `KeptRows`, float32
        # the ubatch that a step computes
        *named(I, "first n_tokens"),  # range of the batch's tokens
        *named(I, "first_output n_outputs"),  # range of the batch's outputs
        ("spans", I),  # (n_spans, 4) int64: slot, first token in the ubatch, number of tokens, position of the first
        ("n_spans", I),  # the adjacent tokens of one slot are a span
    ]
)
"""The arguments of a step."""


def accessor(kind: np.dtype[np.void]) -> Any:
    """Return an operation for Numba code that turns an address into a record."""
    raw = ir.ArrayType(emit.I8, kind.itemsize).as_pointer()
    return operation(numba.from_dtype(kind), (types.int64,), lambda b, where: b.inttoptr(where, raw))


plan_at, tensor_at, row_op_at, phase_at = accessor(PLAN), accessor(TENSOR), accessor(ROW_OP), accessor(PHASE)
rows_at, matrix_at, columns_at = accessor(ROWS), accessor(MATRIX), accessor(COLUMNS)
attention_at, select_at, selection_at = accessor(ATTENTION), accessor(SELECT), accessor(SELECTION)
rounding_at = accessor(ROUNDING)


@jit
def row_at(p: Any, buffer: int, stride: int, mode: int, row: int, thread: int, is_single: bool) -> int:
    """Return the address of a row; see `SHARED` and the other modes."""
    if mode == TRANSIENT or (mode != SHARED and is_single and mode < LOGITS):
        return buffer + thread * stride
    if mode == GROUPED:
        return buffer
    if mode == LOGITS:
        return p.logits + row * stride
    if mode == HIDDEN:
        return p.hidden + row * stride
    return buffer + row * stride


def new_records(kind: np.dtype[np.void], n: int = 1) -> npt.NDArray[np.void]:
    """Return ``n`` zeroed records.

    The caller must keep the array alive while kernels use it.
    """
    return np.zeros(n, kind)


def address_of(records: npt.NDArray[np.void]) -> int:
    """Return the address of an array of records."""
    return int(records.ctypes.data)
