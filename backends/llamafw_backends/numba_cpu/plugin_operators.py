"""Kernels of operators that plugins add to graphs: a Python function that computes one token becomes a kernel.

The function's parameters are named after the operator's fields, or ``part``, ``state`` and ``out``. It computes one
token at a time, so neither the division of a text into batches nor other slots can change its results. The kernel calls
it for the tokens of a slot in order if the operator has a state, and otherwise in any order. A function with the
parameter ``part`` computes a part of the operator, such as a head: the parts are the first axis of the state, or of the
result if there is no state, and threads share them.

Shapes and numbers are constants of the compiled code, so each configuration of an operator has a kernel of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core.errors import NumbaError
from numba.extending import intrinsic
from numba.np import arrayobj

from llamafw import PluginError
from llamafw_backends.numba_cpu.cache import plugin_source
from llamafw_backends.numba_cpu.emit import I64, Builder, Value, constant
from llamafw_backends.numba_cpu.kernel_compiler import OPTIONS, KernelCompiler
from llamafw_backends.numba_cpu.kernel_records import I, accessor, plan_at
from llamafw_backends.numba_cpu.phases import n_rows_of
from llamafw_backends.numba_cpu.recurrence import SPAN_BYTES, span_at
from llamafw_backends.numba_cpu.simd import store_f32
from llamafw_backends.numba_cpu.threads import work_range

OPERATOR = np.dtype([(name, I) for name in ("stage", "state", "state_slot", "arguments", "n_arguments")])
"""The arguments of a kernel: a state for each slot, and (n_arguments,) ARGUMENT."""

ARGUMENT = np.dtype([("address", I), ("stride", I)])
"""An array of the function: a row per token, or a weight, whose stride is 0."""

Shape = tuple[int, ...]
_record_at = accessor(OPERATOR)


@dataclass(frozen=True, slots=True)
class Rows:
    """An argument that is an array: rows of tokens, or a weight."""

    shape: Shape
    is_index: bool = False  # int64 instead of float32
    is_result: bool = False  # the function may write to it


Argument = Rows | bool | int | float | None


@dataclass(frozen=True, slots=True)
class Signature:
    """How a function is called.

    Parameters
    ----------
    arguments : mapping of str to Argument
        Its parameters in order, except that ``part`` and ``state`` are None here.
    n_parts : int
        In how many parts it computes an operator.
    state_shape : tuple of int
        The state of a part; () if there is none.
    """

    arguments: Mapping[str, Argument]
    n_parts: int
    state_shape: Shape

    @property
    def part_bytes(self) -> int:
        """Size of a part's state."""
        return 4 * int(np.prod(self.state_shape)) if self.state_shape else 0


def build(compiler: KernelCompiler, function: Callable[..., None], signature: Signature, owner: str) -> Any:
    """Compile the kernel ``operator(plan, record, thread)`` that calls a function.

    Parameters
    ----------
    compiler : KernelCompiler
        Compiles the kernel or loads its code.
    function : callable
        The function of the plugin.
    signature : Signature
        How it is called.
    owner : str
        The plugin and the operator, for messages.

    Raises
    ------
    PluginError
        Numba cannot compile the function.
    """
    variant = repr((function.__module__, function.__qualname__, signature))  # compiled code refers to the module
    digest = hashlib.sha256(plugin_source(function) + variant.encode()).hexdigest()[:16]
    made = {
        "_compute": numba.njit(nogil=True, forceinline=True, **OPTIONS)(function),
        "_arguments": _pack_arguments(signature),
        "_N_PARTS": signature.n_parts,
        "_PART_BYTES": signature.part_bytes,
    }
    kernel = _with_state if signature.state_shape else _without_state
    specialised = FunctionType(kernel.__code__, {**globals(), **made}, kernel.__name__)
    try:
        return compiler(f"operator {function.__name__} {digest}", 3, specialised)
    except NumbaError as error:
        raise PluginError(f"{owner}: its function {function.__name__} cannot be compiled: {error}") from error


# Globals of the two functions below. `build` makes copies of the functions, with globals of their own.
_compute: Any = None
_arguments: Any = None
_N_PARTS = 1
_PART_BYTES = 0


def _with_state(plan: int, record: int, thread: int) -> int:
    """Compute this thread's parts of all spans, token by token."""
    p, r = plan_at(plan), _record_at(record)
    first, last = work_range(_N_PARTS, thread, p.n_threads)
    for i in range(p.n_spans):
        span = span_at(p.spans + SPAN_BYTES * i)
        for part in range(first, last):
            state = r.state + span.slot * r.state_slot + part * _PART_BYTES
            if span.position == 0:
                for offset in range(0, _PART_BYTES, 4):
                    store_f32(0.0, state + offset)
            for token in range(span.first, span.first + span.n_tokens):
                _compute(*_arguments(r.arguments, token, part, state))
    return 0


def _without_state(plan: int, record: int, thread: int) -> int:
    """Compute this thread's share of the parts of all rows."""
    p, r = plan_at(plan), _record_at(record)
    first, last = work_range(n_rows_of(p, r.stage) * _N_PARTS, thread, p.n_threads)
    for i in range(first, last):
        _compute(*_arguments(r.arguments, i // _N_PARTS, i % _N_PARTS, 0))
    return 0


def _pack_arguments(signature: Signature) -> Any:
    """Return the operation ``arguments(addresses, token, part, state)``, the tuple of the function's arguments."""

    def typing(context: Any, addresses: Any, token: Any, part: Any, state: Any) -> Any:
        kinds = [_type_of(name, argument, signature) for name, argument in signature.arguments.items()]
        return types.Tuple(kinds)(*[types.int64] * 4), lower

    def lower(context: Any, b: Builder, call: Any, values: list[Value]) -> Value:
        addresses, token, part, state = values
        made, n_arrays = [], 0
        for (name, argument), kind in zip(signature.arguments.items(), call.return_type, strict=True):
            if name == "part":
                made.append(part)
            elif name == "state":
                made.append(_array(context, b, kind, state, signature.state_shape))
            elif isinstance(argument, Rows):
                address, stride = (_load(b, addresses, 16 * n_arrays + offset) for offset in (0, 8))
                made.append(_array(context, b, kind, b.add(address, b.mul(token, stride)), argument.shape))
                n_arrays += 1
            elif argument is None:
                made.append(context.get_dummy_value())
            else:
                made.append(context.get_constant(kind, argument))
        return context.make_tuple(b, call.return_type, made)

    return intrinsic(typing)


def _type_of(name: str, argument: Argument, signature: Signature) -> Any:
    """Return the Numba type of an argument."""
    match argument:
        case Rows():
            kind = types.int64 if argument.is_index else types.float32
            return types.Array(kind, len(argument.shape), "C", readonly=not argument.is_result)
        case bool():
            return types.boolean
        case int():
            return types.int64
        case float():
            return types.float64
    if name == "state":
        return types.Array(types.float32, len(signature.state_shape), "C")
    return types.int64 if name == "part" else types.none


def _load(b: Builder, base: Value, offset: int) -> Value:
    return b.load(b.inttoptr(b.add(base, constant(I64, offset)), I64.as_pointer()))


def _array(context: Any, b: Builder, kind: Any, address: Value, shape: Shape) -> Value:
    """Return a contiguous array at an address."""
    array = arrayobj.make_array(kind)(context, b)
    item_bytes = 8 if kind.dtype is types.int64 else 4
    strides = [item_bytes * int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
    pointer: ir.Type = array.data.type
    arrayobj.populate_array(
        array,
        data=b.inttoptr(address, pointer),
        shape=[constant(I64, size) for size in shape],
        strides=[constant(I64, stride) for stride in strides],
        itemsize=constant(I64, item_bytes),
        meminfo=None,
    )
    return array._getvalue()
