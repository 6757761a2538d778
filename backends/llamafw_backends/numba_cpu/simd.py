"""Numba types and intrinsics for the vectors of `emit`.

``floats`` and ``ints`` are 16 lanes of float32 and int32. Operations take addresses as int64 instead of arrays, so
every kernel has only one signature.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.cpu import IS_ARM, IS_X86
from llamafw_backends.numba_cpu.emit import F32, FLOATS, I8, I16, I32, I64, INTS, Builder, Value, constant
from llamafw_backends.numba_cpu.isa import HIGH_BITS


class Vector(types.Type):  # type: ignore[misc]  # numba has no types
    """The Numba type of a vector of 16 lanes."""

    def __init__(self, name: str, llvm: Any) -> None:
        self.llvm = llvm
        super().__init__(name=name)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]  # numba has no types
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, kind.llvm)


floats, ints = Vector("floats16", FLOATS), Vector("ints16", INTS)
quad = Vector("floats4", emit.QUAD)
i64, i32, f32, void = types.int64, types.int32, types.float32, types.void


def operation(result: Any, arguments: tuple[Any, ...], emitter: Callable[..., Value]) -> Any:
    """Return a function for Numba code; a call of it becomes the code that ``emitter(builder, *values)`` emits."""
    signature = result(*arguments)

    def lower(context: Any, b: Builder, _: Any, values: list[Value]) -> Value:
        value = emitter(b, *values)
        return context.get_dummy_value() if result is void else value

    def typing(context: Any, *args: Any) -> Any:
        return signature, lower

    names = ["context", *(f"a{i}" for i in range(len(arguments)))]
    typing.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # numba reads the number of arguments from it
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    )
    return intrinsic(typing)


def specialised(name: str, n_literals: int, n_arguments: int, emitter: Callable[..., None], n_cases: int = 0) -> Any:
    """Return an operation ``f(*literals, arguments)`` that calls a function emitted for these literals.

    Parameters
    ----------
    name : str
        Name of the function, different for each emitter in a module.
    n_literals : int
        Number of literals, integers or text, which are known when the kernel is compiled.
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

        return void(*kinds[:-1], types.UniTuple(i64, n_arguments + (n_cases > 0))), lower

    names = ["context", *(f"literal{i}" for i in range(n_literals)), "arguments"]
    typing.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # numba reads the number of arguments from it
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    )
    return intrinsic(prefer_literal=True)(typing)


# --- vectors ----------------------------------------------------------------------------------------

zeros = operation(floats, (), lambda b: constant(FLOATS, 0.0))
load = operation(floats, (i64,), lambda b, a: emit.load(b, a, FLOATS))
store = operation(void, (floats, i64), emit.store)
load_quad = operation(quad, (i64,), lambda b, a: emit.load(b, a, emit.QUAD))
store_quad = operation(void, (quad, i64), emit.store)
store_half = operation(void, (floats, i64), emit.store_half)
store_bf16 = operation(void, (floats, i64), emit.store_bf16)
store_bf16_quad = operation(void, (quad, i64), emit.store_bf16)
store_bytes = operation(void, (ints, i64), lambda b, v, a: emit.store(b, b.trunc(v, emit.BYTES), a))
splat = operation(floats, (f32,), emit.splat)
add = operation(floats, (floats, floats), lambda b, x, y: b.fadd(x, y))
sub = operation(floats, (floats, floats), lambda b, x, y: b.fsub(x, y))
mul = operation(floats, (floats, floats), lambda b, x, y: b.fmul(x, y))
div = operation(floats, (floats, floats), lambda b, x, y: b.fdiv(x, y))
fma = operation(floats, (floats, floats, floats), emit.fma)
exp = operation(floats, (floats,), emit.exp)
maximum = operation(floats, (floats, floats), emit.maximum)
minimum = operation(floats, (floats, floats), lambda b, x, y: b.select(b.fcmp_ordered("<", x, y), x, y))
prefetch = operation(void, (i64,), emit.prefetch)
swap_pairs = operation(floats, (floats,), lambda b, x: emit.take(b, x, [lane ^ 1 for lane in range(emit.LANES)]))
absolute = operation(floats, (floats,), lambda b, x: emit.call(b, "llvm.fabs.v16f32", FLOATS, [x]))
round_ints = operation(ints, (floats,), lambda b, x: b.fptosi(emit.call(b, "llvm.rint.v16f32", FLOATS, [x]), INTS))
add_ints = operation(ints, (ints, ints), lambda b, x, y: b.add(x, y))
# the two bytes of an activation of 15 bits: see `isa`
high_part = operation(
    ints, (ints,), lambda b, x: b.ashr(b.add(x, constant(INTS, 1 << (HIGH_BITS - 1))), constant(INTS, HIGH_BITS))
)
low_part = operation(ints, (ints, ints), lambda b, x, high: b.sub(x, b.shl(high, constant(INTS, HIGH_BITS))))
sum_lanes = operation(f32, (floats,), lambda b, x: emit.reduce(b, x, b.fadd))
max_lanes = operation(f32, (floats,), lambda b, x: emit.reduce(b, x, lambda u, v: emit.maximum(b, u, v)))
sum_int_lanes = operation(i32, (ints,), lambda b, x: emit.reduce(b, x, b.add))


def _first_lanes(b: Builder, n: Value, x: Value, y: Value) -> Value:
    lane = ir.Constant(INTS, list(range(emit.LANES)))
    return b.select(b.icmp_signed("<", lane, emit.splat(b, b.trunc(n, I32))), x, y)


first_lanes = operation(floats, (i64, floats, floats), _first_lanes)  # lanes below n from x, the others from y

# --- scalars in memory ------------------------------------------------------------------------------

load_f32 = operation(f32, (i64,), lambda b, a: emit.load(b, a, F32))
store_f32 = operation(void, (f32, i64), emit.store)
load_i64 = operation(i64, (i64,), lambda b, a: emit.load(b, a, emit.I64))
store_i64 = operation(void, (i64, i64), emit.store)
store_i32 = operation(void, (i32, i64), emit.store)
load_bf16 = operation(
    f32, (i64,), lambda b, a: b.bitcast(b.shl(b.zext(emit.load(b, a, I16), I32), constant(I32, 16)), F32)
)
load_f16 = operation(f32, (i64,), lambda b, a: emit.load_half(b, a, F32))
float_of = operation(f32, (i64,), lambda b, bits: emit.half_to_float(b, b.trunc(bits, I16)))  # bits of a float16
store_f16 = operation(void, (f32, i64), emit.store_half)
read_u8, read_u16, read_u32 = (  # unsigned numbers as int64
    operation(i64, (i64,), lambda b, a, kind=kind: b.zext(emit.load(b, a, kind), I64)) for kind in (I8, I16, I32)
)
read_i8 = operation(i64, (i64,), lambda b, a: b.sext(emit.load(b, a, I8), I64))
write_u8, write_u16, write_u32 = (  # the lowest bits of an int64
    operation(void, (i64, i64), lambda b, value, a, kind=kind: emit.store(b, b.trunc(value, kind), a))
    for kind in (I8, I16, I32)
)

# --- between threads --------------------------------------------------------------------------------


def _pause(b: Builder) -> None:
    if IS_X86:
        emit.call(b, "llvm.x86.sse2.pause", ir.VoidType(), [])
    elif IS_ARM:
        emit.call(b, "llvm.aarch64.hint", ir.VoidType(), [constant(I32, 1)])


def _pointer(b: Builder, where: Value) -> Value:
    return b.inttoptr(where, ir.PointerType())


pause = operation(void, (), _pause)  # tells the core that this is a waiting loop
atomic_load = operation(i32, (i64,), lambda b, a: b.load_atomic(_pointer(b, a), "acquire", 4, typ=I32))
atomic_add = operation(i32, (i64, i32), lambda b, a, v: b.atomic_rmw("add", _pointer(b, a), v, "seq_cst"))
# an exchange, because llvmlite's store_atomic does not accept opaque pointers
atomic_store = operation(i32, (i64, i32), lambda b, a, v: b.atomic_rmw("xchg", _pointer(b, a), v, "seq_cst"))


def call_address(n_arguments: int) -> Any:
    """Return an operation that calls a compiled kernel: ``call(address, *arguments)``, all int64."""

    def emitter(b: Builder, where: Value, *values: Value) -> Value:
        kind = ir.FunctionType(emit.I64, [emit.I64] * n_arguments)
        return b.call(b.inttoptr(where, kind.as_pointer()), values)

    return operation(i64, (i64,) * (1 + n_arguments), emitter)
