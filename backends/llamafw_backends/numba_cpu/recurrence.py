"""Shared parts of the kernels of recurrent operators: convolution, linear attention and selective scan.

A recurrent operator reads the tokens of a slot in order and keeps a state of fixed size per slot. Its kernel is
``kernel(plan, record, thread) -> 0``, where ``record`` is the address of the operator's own record. A slot has at most
one span in a ubatch. Position 0 begins a new state, whatever the memory holds.

Blocks of `BLOCK` tokens lie at multiples of `BLOCK`. A state contains what the operator knew at the start of the last
block, and the inputs of the block's tokens. So a slot can go back within this block, and nothing must be done for it: a
kernel continues at the position of the next span and ignores later tokens. A snapshot is a copy of the state's memory.
"""

from __future__ import annotations

import numpy as np

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.kernel_records import I, accessor
from llamafw_backends.numba_cpu.simd import i64, operation, void

BLOCK = 4
"""Tokens per block. Longer blocks are not faster in prompts, and make one token of each block slow when decoding."""

SPAN = np.dtype([(name, I) for name in ("slot", "first", "n_tokens", "position")])
"""A row of ``plan.spans``: the slot, its first token in the ubatch, the number of tokens, the position of the first."""

span_at = accessor(SPAN)
SPAN_BYTES = SPAN.itemsize
prefetch = operation(void, (i64,), emit.prefetch)


def earliest_position(n_positions: int, earliest: int) -> int:
    """Return the earliest position that a slot can go back to, after it has computed ``n_positions`` positions.

    Parameters
    ----------
    n_positions : int
        Number of positions of the slot, at least 1.
    earliest : int
        The earliest position before the last tokens were computed. It is 0 for a new text, and is part of a snapshot.
    """
    return max(earliest, (n_positions - 1) // BLOCK * BLOCK)
