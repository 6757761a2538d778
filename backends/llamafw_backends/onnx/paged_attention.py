"""Lowers attention over a cache to PagedAttention, for packed rows and a cache in blocks of positions.

`BlockTable` says which blocks belong to which slot. The node writes the new keys and values to them in place, and needs
no row for an idle slot.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llamafw_backends.onnx.block_table import BLOCK, BlockTable
from llamafw_backends.onnx.grouped_queries import Attend, attend_in_float64
from llamafw_backends.onnx.model_builder import Array, Dimensions, ModelBuilder
from llamafw_backends.onnx.support import Probe, Support

BLOCKS = "block_table"
"""The input with the blocks of each slot."""

BOUNDS = "attention_bounds"
"""The input with the most new tokens and the most positions of a slot, in the memory of the CPU: the node chooses its
kernel by them. Without it, each node waits for the device to tell the lengths."""


def add_paged(
    b: ModelBuilder, attend: Attend, rows: tuple[str, str, str], caches: tuple[str, str], sinks: str, **names: Any
) -> str:
    """Add the node.

    Parameters
    ----------
    b : ModelBuilder
        The model.
    attend : Attend
        Its attributes.
    rows : (str, str, str)
        Queries, keys and values, ``(n_tokens, n_head · size)``.
    caches : (str, str)
        The caches of keys and values, ``(n_blocks, BLOCK, n_head_kv, size)``.
    sinks : str
        The extra scores, ``(n_head,)``; "" if there are none.
    **names
        ``outputs``: the names of the result and of the new caches.
    """
    starts = b.input("sequence_starts", np.int32, ["n_starts"])
    past = b.input("past_lengths", np.int32, ["n_active"])
    table = b.input(BLOCKS, np.int32, ["n_active", "n_columns"])
    bounds = b.input(BOUNDS, np.int32, [2])
    inputs = [*rows, *caches, starts, past, table, "", "", "", sinks, "", "", "", "", bounds]
    return attend.add_node(b, "PagedAttention", inputs, **names)


def runs_paged(support: Support, attend: Attend) -> bool:
    """Return whether the provider has the node for ragged batches."""
    small = attend.small()
    return support.runs(small.describe("PagedAttention"), lambda: _ragged(support.float_type, small))


def _ragged(dtype: np.dtype[Any], attend: Attend) -> Probe:
    """Return a batch of three slots: a prompt that ends in a second block, one that starts, one that is decoded."""
    rng = np.random.default_rng(0)
    past, n_new = np.array([BLOCK - 2, 0, 5]), np.array([4, 2, 1])
    starts = np.concatenate([[0], np.cumsum(n_new)]).astype(np.int32)
    sizes = [n * attend.size for n in (attend.n_head, attend.n_head_kv, attend.n_head_kv)]
    rows = [rng.standard_normal((starts[-1], size)).astype(dtype) for size in sizes]
    blocks = BlockTable(len(past))
    blocks.add(6)
    blocks.reserve(dict(enumerate((past + n_new).tolist())))
    table = blocks.rows(range(len(past)), 2)
    shape = (blocks.n_blocks, BLOCK, attend.n_head_kv, attend.size)
    before = [rng.standard_normal(shape).astype(attend.cache_type) for _ in range(2)]
    sinks = rng.standard_normal(attend.n_head).astype(dtype) if attend.has_sinks else None
    after, expected = [array.copy() for array in before], np.zeros((starts[-1], sizes[0]))
    for slot, n_past in enumerate(past.tolist()):
        new = slice(starts[slot], starts[slot + 1])
        positions = np.arange(n_past, n_past + n_new[slot])
        for array, part in zip(after, rows[1:], strict=True):
            heads = part[new].reshape(-1, attend.n_head_kv, attend.size)
            array[table[slot, positions // BLOCK], positions % BLOCK] = heads
        keys, values = (array[table[slot]].reshape(-1, *shape[2:]).transpose(1, 0, 2) for array in after)
        q = rows[0][new].reshape(-1, attend.n_head, attend.size)
        expected[new] = attend_in_float64(attend, q, keys, values, n_past, sinks)

    def build(b: ModelBuilder) -> None:
        q, k, v = (b.input(name, dtype, ["n", size]) for name, size in zip("qkv", sizes, strict=True))
        dims: Dimensions = ["n_blocks", *shape[1:]]
        keys, values = (b.input(name, attend.cache_type, dims) for name in ("past.k", "past.v"))
        sink_name = "" if sinks is None else b.constant(sinks)
        outputs = ["y", "present.k", "present.v"]
        add_paged(b, attend, (q, k, v), (keys, values), sink_name, outputs=outputs)
        b.output("y", dtype, ["n", sizes[0]])
        for name in outputs[1:]:
            b.output(name, attend.cache_type, dims)

    feeds: dict[str, Array] = dict(zip("qkv", rows, strict=True))
    feeds |= {"sequence_starts": starts, "past_lengths": past.astype(np.int32), BLOCKS: table}
    feeds[BOUNDS] = np.array([n_new.max(), (past + n_new).max()], np.int32)
    states = {
        (f"past.{x}", f"present.{x}"): pair for x, pair in zip("kv", zip(before, after, strict=True), strict=True)
    }
    return Probe(build, feeds, expected, states)
