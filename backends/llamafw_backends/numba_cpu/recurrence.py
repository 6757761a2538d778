"""Shared parts of the kernels of recurrent operators: convolution, linear attention and selective scan.

A recurrent operator reads the tokens of a slot in order and keeps a state of fixed size per slot. Its kernel is
``kernel(plan, record, thread) -> 0``, where ``record`` is the address of the operator's own record. A slot has at most
one span in a ubatch. Position 0 begins a new state, whatever the memory holds.

Blocks of `BLOCK` tokens lie at multiples of `BLOCK`. A state contains what the operator knew at the start of the last
block, and the inputs of the block's tokens. So a slot can go back within this block, and nothing must be done for it: a
kernel continues at the position of the next span and ignores later tokens. A snapshot is a copy of the state's memory.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.emit import I64, Builder, Value, constant
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


def specialised(name: str, n_literals: int, n_arguments: int, emitter: Callable[..., None], n_cases: int = 0) -> Any:
    """Return an operation ``f(*literals, arguments)`` that calls a function emitted for these literals.

    Parameters
    ----------
    name : str
        Name of the function, different for each emitter in a module.
    n_literals : int
        Number of integer literals, which are known when the kernel is compiled.
    n_arguments : int
        Length of ``arguments``, a tuple of int64.
    emitter : callable
        ``emitter(builder, arguments, *literals)`` emits the body.
    n_cases : int
        If it is not 0, ``emitter(builder, arguments, case, *literals)`` emits a function for each case from 0 to
        ``n_cases - 1``. The tuple begins with another int64, the case to call.
    """

    def typing(context: Any, *kinds: Any) -> Any:
        literals = [kind.literal_value for kind in kinds[:-1]]

        def call(b: Builder, values: list[Value], *numbers: int) -> None:
            def body(inner: Builder, arguments: list[Value]) -> None:
                emitter(inner, arguments, *numbers)

            b.call(emit.function(b.module, ".".join([name, *map(str, numbers)]), n_arguments, body), values)

        def lower(context: Any, b: Builder, _: Any, values: list[Value]) -> Value:
            arguments = [b.extract_value(values[-1], i) for i in range(n_arguments + (n_cases > 0))]
            if not n_cases:
                call(b, arguments, *literals)
                return context.get_dummy_value()

            after = b.append_basic_block("after")
            switch = b.switch(arguments[0], after)
            for case in range(n_cases):
                block = b.append_basic_block(f"case{case}")
                switch.add_case(constant(I64, case), block)
                b.position_at_end(block)
                call(b, arguments[1:], case, *literals)
                b.branch(after)
            b.position_at_end(after)
            return context.get_dummy_value()

        return types.void(*kinds[:-1], types.UniTuple(i64, n_arguments + (n_cases > 0))), lower

    names = ["context", *(f"literal{i}" for i in range(n_literals)), "arguments"]
    typing.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # numba reads the number of arguments from it
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    )
    return intrinsic(prefer_literal=True)(typing)
