"""Calls kernels by their addresses, one after the other, in compiled code. Imports numba; see `kernels`."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_ARGUMENTS = 6
_INT = ir.IntType(64)


@intrinsic  # type: ignore[untyped-decorator]  # numba has no types
def _call(
    context: Any, function: Any, logits: Any, ids: Any, n: Any, ordered: Any, options: Any, n_options: Any
) -> Any:
    """Call a C function of six 64-bit integers or addresses, which all are passed alike."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.FunctionType(_INT, [_INT] * _ARGUMENTS).as_pointer())
        return builder.call(pointer, arguments[1:])

    return types.int64(types.int64, *[types.int64] * _ARGUMENTS), generate


def _run(functions: Any, options: Any, sizes: Any, logits: Any, ids: Any, state: Any) -> int:
    """Run kernels on the candidates; return how many are left, at the front of ``logits`` and ``ids``.

    ``state``: whether they are ordered, in and out; how many ids at the front were written over; a kernel that failed.
    """
    n = whole = len(logits)
    for i in range(len(functions)):
        left = _call(
            functions[i],
            np.int64(logits.ctypes.data),
            np.int64(ids.ctypes.data),
            np.int64(n),
            np.int64(state.ctypes.data),
            options[i],
            sizes[i],
        )
        if left < 1 or left > n:
            state[2] = i
            state[1] = whole  # whatever it did
            return n
        if left < n == whole:
            state[1] = left
        n = left
    return n


_ints = types.int64[::1]
_signature = types.int64(_ints, _ints, _ints, types.float32[::1], types.int32[::1], _ints)
try:
    run = numba.njit(_signature, cache=True, nogil=True)(_run)
except RuntimeError:  # there is nowhere to keep it
    run = numba.njit(_signature, nogil=True)(_run)
