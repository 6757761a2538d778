"""Calls sampler kernels one after the other in compiled code.

Importing this module imports numba; see `sampler_kernels`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from llamafw.sampling.compiled_samplers import compile_stored

_N_ARGUMENTS = 6
_INT = ir.IntType(64)


@intrinsic  # type: ignore[untyped-decorator]  # numba has no types
def _call(
    context: Any, function: Any, logits: Any, ids: Any, n: Any, ordered: Any, options: Any, n_options: Any
) -> Any:
    """Call the C function at an address.

    Its six arguments are 64-bit integers or addresses, passed the same way.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.FunctionType(_INT, [_INT] * _N_ARGUMENTS).as_pointer())
        return builder.call(pointer, arguments[1:])

    return types.int64(types.int64, *[types.int64] * _N_ARGUMENTS), generate


@intrinsic  # type: ignore[untyped-decorator]  # numba has no types
def _integers_at(context: Any, address: Any) -> Any:
    """Return the pointer to the 64-bit integers at an address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], _INT.as_pointer())

    return types.CPointer(types.int64)(types.int64), generate


def _run(kernels: int, n_kernels: int, logits: int, ids: int, n_all: int, state: int) -> int:
    """Run kernels on ``n_all`` candidates; return how many remain, at the front of ``logits`` and ``ids``.

    ``kernels`` is the address of ``(n_kernels, 3)`` integers: the address of a kernel, that of its options, and their
    number. ``state`` is the address of three integers: whether the candidates are ordered (in and out), how many ids at
    the front were overwritten (out), and the index of a kernel that failed (out).
    """
    rows, out = carray(_integers_at(kernels), (n_kernels, 3)), carray(_integers_at(state), 3)
    n = n_all
    for i in range(n_kernels):
        n_left = _call(rows[i, 0], logits, ids, n, state, rows[i, 1], rows[i, 2])
        if n_left < 1 or n_left > n:
            out[2] = i
            out[1] = n_all  # the kernel may have overwritten any of them
            return n
        if n_left < n == n_all:
            out[1] = n_left
        n = n_left
    return n


run = compile_stored(_run, types.int64(*[types.int64] * _N_ARGUMENTS), __name__, __file__).ctypes
