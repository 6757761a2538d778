"""The records that Python and kernels share: numpy arrays of one element in Python, pointers in kernels.

Comments give the shapes of the arrays that addresses point to. All strides are in bytes.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.simd import operation

I, F = np.int64, np.float32  # noqa: E741  # short names for the tables below

TENSOR = np.dtype(
    [
        ("kernel", I),  # address of the matmul kernel for the matrix's format
        ("weights", I),  # tiles
        ("tile_bytes", I),  # size of a tile
        ("n_tiles", I),
        ("n_blocks", I),  # per tile
        ("start", I),  # initial values of the sums: (16 · n_tiles,) float32 bias, or 16 zeros
        ("start_stride", I),  # from tile to tile: 64, or 0 for zeros
        ("layout", I),  # of the activations it is multiplied with: tiles.Q8_LAYOUT or tiles.F32_LAYOUT
    ]
)
"""A matrix of weights."""

LAYER = np.dtype(
    [
        *((name, I) for name in ("attn_norm", "ffn_norm")),  # (n_embd,) float32
        *(
            (name, I) for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
        ),  # TENSOR
        *(
            (name, I) for name in ("qkv_layouts", "ffn_layouts")
        ),  # layouts of the matrices that share activations, as bits
    ]
)
"""The weights of one layer."""

PLAN = np.dtype(
    [
        # the model
        *((name, I) for name in ("n_layer", "n_embd", "n_head", "n_head_kv", "head_size", "n_ff", "n_vocab", "n_rot")),
        ("norm_eps", F),
        ("attention_scale", F),
        ("layers", I),  # (n_layer,) LAYER
        ("output_norm", I),  # (n_embd,) float32
        ("output", I),  # TENSOR
        ("rope", I),  # (n_ctx, 2, n_rot // 2) float32: cosines, sines
        # the run-time configuration
        ("pool", I),  # threads.POOL
        ("step", I),  # address of the kernel `forward.step`
        ("attention", I),  # address of the attention kernel
        ("widths", I),  # (…,) int64: the instruction set's widths
        ("max_tokens", I),  # maximum number of tokens of an item (see `items`)
        ("n_slots", I),
        ("n_ctx", I),
        ("n_ubatch", I),
        ("n_scores", I),  # n_ctx rounded up to whole blocks of keys
        # the KV cache; strides from slot to slot, layer to layer, head to head
        ("keys", I),
        ("values", I),
        *((name, I) for name in ("key_slot", "key_layer", "key_head", "value_slot", "value_layer", "value_head")),
        ("filled", I),  # (n_slots,) int64: number of positions in each slot
        ("embedding", I),  # rows of the token embedding in the file
        ("embedding_row", I),  # bytes per row
        ("embedding_kind", I),  # one of token_embedding.KERNEL_KINDS, or NO_KERNEL
        ("embedded", I),  # (n_batch, n_embd) float32: the batch's embeddings, for token_embedding.NO_KERNEL
        # buffers; n is n_ubatch
        ("x", I),  # (n, n_embd) float32: the residual stream
        *((name, I) for name in ("q", "k", "v")),  # (n, heads · head_size) float32
        *((name, I) for name in ("q_stride", "kv_stride")),  # from token to token
        ("attention_out", I),  # (n, n_head · head_size) float32
        *((name, I) for name in ("records", "floats")),  # activations in either layout; see `elementwise.token_group`
        *((name, I) for name in ("records_stride", "floats_stride")),  # from thread to thread, for a single token
        *((name, I) for name in ("ffn_records", "ffn_floats")),  # activations for ffn_down, while the others are read
        ("scratch", I),  # buffers of the threads
        ("scratch_stride", I),  # from thread to thread
        ("logits", I),  # (n_outputs, n_vocab) float32
        ("logits_stride", I),  # from output to output
        ("hidden", I),  # (n_outputs, n_embd) float32 if hidden states are requested instead of logits; otherwise 0
        # the batch
        ("n_batch", I),  # number of tokens
        ("n_runs", I),  # number of slots with tokens in the batch
        ("n_threads", I),
        *((name, I) for name in ("tokens", "positions", "slots")),  # (n_batch,) int64
        ("outputs", I),  # int64 each: indices of tokens in the batch
        # the ubatch that a step computes
        *((name, I) for name in ("first", "n_tokens")),  # range of the batch's tokens
        *((name, I) for name in ("first_output", "n_outputs")),  # range of the batch's outputs
        ("spans", I),  # (n_spans, 4) int64: slot, first token in the ubatch, number of tokens, position of the first
        ("n_spans", I),  # the adjacent tokens of one slot are a span
        ("items", I),  # (n_items, 2) int64: first token and number of tokens whose attention is computed together
        ("n_items", I),
    ]
)
"""The arguments of a step."""


def accessor(kind: np.dtype[np.void]) -> Any:
    """Return an operation for Numba code that turns an address into a record."""
    raw = ir.ArrayType(emit.I8, kind.itemsize).as_pointer()
    return operation(numba.from_dtype(kind), (types.int64,), lambda b, where: b.inttoptr(where, raw))


tensor_at, layer_at, plan_at = accessor(TENSOR), accessor(LAYER), accessor(PLAN)


def new_records(kind: np.dtype[np.void], n: int = 1) -> npt.NDArray[np.void]:
    """Return ``n`` zeroed records.

    The caller must keep the array alive while kernels use it.
    """
    return np.zeros(n, kind)
