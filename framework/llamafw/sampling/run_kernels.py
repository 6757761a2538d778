"""Calls sampler kernels one after the other in compiled code.

Importing this module imports numba; see `sampler_kernels`.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

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


def _run(functions: Any, options: Any, sizes: Any, logits: Any, ids: Any, state: Any) -> int:
    """Run kernels on the candidates; return how many candidates remain, at the front of ``logits`` and ``ids``.

    ``state`` has three entries: whether the candidates are ordered (in and out), how many ids at the front were
    overwritten (out), and the index of a kernel that failed (out).
    """
    n = n_all = len(logits)
    for i in range(len(functions)):
        n_left = _call(
            functions[i],
            np.int64(logits.ctypes.data),
            np.int64(ids.ctypes.data),
            np.int64(n),
            np.int64(state.ctypes.data),
            options[i],
            sizes[i],
        )
        if n_left < 1 or n_left > n:
            state[2] = i
            state[1] = n_all  # the kernel may have overwritten any of them
            return n
        if n_left < n == n_all:
            state[1] = n_left
        n = n_left
    return n


_ints = types.int64[::1]
_signature = types.int64(_ints, _ints, _ints, types.float32[::1], types.int32[::1], _ints)
try:
    run = numba.njit(_signature, cache=True, nogil=True)(_run)
except RuntimeError:  # no folder for the cache is writable
    run = numba.njit(_signature, nogil=True)(_run)
