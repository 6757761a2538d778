"""Emit LLVM IR for vectors of 16 lanes with llvmlite's builder.

Independent of Numba.

LLVM splits sixteen 32-bit lanes into one register with AVX-512, two with AVX2, four with NEON or SSE. Floating-point
operations have no fast-math flags and sums across lanes are trees of a fixed shape, so every kernel rounds in the same
way. Addresses are 64-bit integers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from llamafw_backends.numba_cpu.cpu import has_fma, has_half

LANES = 16
I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
FLOATS, HALVES = ir.VectorType(F32, LANES), ir.VectorType(F16, LANES)
QUAD = ir.VectorType(F32, 4)
INTS, SHORTS, BYTES = (ir.VectorType(t, LANES) for t in (I32, I16, I8))


class _BFloat16(ir.Type):  # type: ignore[misc]  # llvmlite has no types
    """LLVM's type of bfloat16, which llvmlite does not have."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat16)

    def __hash__(self) -> int:
        return hash(_BFloat16)


BF16S = ir.VectorType(_BFloat16(), 2 * LANES)

Builder = Any  # llvmlite.ir.IRBuilder
Value = Any  # llvmlite.ir.Value


def constant(kind: Any, value: float) -> Value:
    """Return a constant of type ``kind``; each lane of a vector has the same value."""
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def address(b: Builder, base: Value, offset: int) -> Value:
    """Emit ``base + offset``."""
    return b.add(base, constant(I64, offset)) if offset else base


def load(b: Builder, where: Value, kind: Any, align: int = 1) -> Value:
    """Emit loading a value of type ``kind``."""
    value = b.load(b.inttoptr(where, ir.PointerType()), typ=kind)
    value.align = align
    return value


def store(b: Builder, value: Value, where: Value, align: int = 1) -> None:
    """Emit storing a value."""
    b.store(value, b.inttoptr(where, ir.PointerType())).align = align


def splat(b: Builder, scalar: Value, lanes: int = LANES) -> Value:
    """Emit a vector with ``scalar`` in each lane."""
    kind = ir.VectorType(scalar.type, lanes)
    one = b.insert_element(ir.Constant(kind, ir.Undefined), scalar, constant(I32, 0))
    return b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), constant(ir.VectorType(I32, lanes), 0))


def load_splat(b: Builder, where: Value, kind: Any, lanes: int = LANES) -> Value:
    """Emit loading a scalar into each lane."""
    return splat(b, load(b, where, kind), lanes)


def take(b: Builder, vector: Value, lanes: list[int]) -> Value:
    """Emit a vector of the lanes with the given indices."""
    chosen = ir.Constant(ir.VectorType(I32, len(lanes)), lanes)
    return b.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), chosen)


def join(b: Builder, low: Value, high: Value) -> Value:
    """Emit the lanes of ``low`` and then of ``high`` as one vector."""
    return b.shuffle_vector(low, high, ir.Constant(ir.VectorType(I32, n := 2 * low.type.count), list(range(n))))


def scratch(b: Builder, n_bytes: int) -> Value:
    """Emit the address of ``n_bytes`` on the stack, aligned to a cache line.

    A loop does not allocate them again.
    """
    with b.goto_entry_block():
        memory = b.alloca(ir.ArrayType(I8, n_bytes))
    memory.align = 64
    return b.ptrtoint(memory, I64)


def call(b: Builder, name: str, result: Any, values: list[Value]) -> Value:
    """Emit a call of an LLVM intrinsic by its name."""
    function = b.module.globals.get(name) or ir.Function(
        b.module, ir.FunctionType(result, [value.type for value in values]), name
    )
    return b.call(function, values)


def fma(b: Builder, x: Value, y: Value, z: Value) -> Value:
    """Emit ``x * y + z``, rounded once if the processor has fused multiply-add."""
    return call(b, "llvm.fma.v16f32", FLOATS, [x, y, z]) if has_fma() else b.fadd(b.fmul(x, y), z)


def to_float(b: Builder, ints: Value) -> Value:
    """Emit the conversion of 16 int32 to float32."""
    return b.sitofp(ints, FLOATS)


def load_half(b: Builder, where: Value, kind: Any = FLOATS) -> Value:
    """Emit loading 16 float16, or one, as float32."""
    return half_to_float(b, load(b, where, SHORTS if kind is FLOATS else I16))


def half_to_float(b: Builder, bits: Value) -> Value:
    """Emit the conversion of the 16 bits of a float16, or of 16 of them, to float32."""
    if not has_half():
        return widen(b, bits)
    halves, kind = (HALVES, FLOATS) if bits.type == SHORTS else (F16, F32)
    return b.fpext(b.bitcast(bits, halves), kind)


def store_half(b: Builder, value: Value, where: Value) -> None:
    """Emit storing 16 float32, or one, as float16, rounded to the nearest."""
    if has_half():
        store(b, b.fptrunc(value, HALVES if value.type == FLOATS else F16), where)
    else:
        store(b, narrow(b, value), where)


def widen(b: Builder, bits: Value) -> Value:
    """Emit the conversion of the 16 bits of a float16 to float32, with integer instructions."""
    wide, kind = (INTS, FLOATS) if bits.type == SHORTS else (I32, F32)
    bits = b.zext(bits, wide)
    magnitude = b.shl(b.and_(bits, constant(wide, 0x7FFF)), constant(wide, 13))
    scaled = b.bitcast(b.fmul(b.bitcast(magnitude, kind), constant(kind, 2.0**112)), wide)
    infinite = b.icmp_unsigned(">=", magnitude, constant(wide, 0x7C00 << 13))
    number = b.select(infinite, b.or_(magnitude, constant(wide, 0x7F800000)), scaled)
    return b.bitcast(b.or_(number, b.shl(b.and_(bits, constant(wide, 0x8000)), constant(wide, 16))), kind)


def narrow(b: Builder, value: Value) -> Value:
    """Emit the 16 bits of the nearest float16, ties to even, with integer instructions."""
    wide, short, kind = (INTS, SHORTS, FLOATS) if value.type == FLOATS else (I32, I16, F32)
    bits = b.bitcast(value, wide)
    magnitude = b.and_(bits, constant(wide, 0x7FFFFFFF))
    odd = b.and_(b.lshr(magnitude, constant(wide, 13)), constant(wide, 1))
    rebased = b.sub(b.add(b.add(magnitude, odd), constant(wide, 0xFFF)), constant(wide, 112 << 23))
    normal = b.lshr(rebased, constant(wide, 13))

    half = constant(kind, 0.5)  # adding it moves the bits of a subnormal float16 to the end of the mantissa
    small = b.sub(b.bitcast(b.fadd(b.bitcast(magnitude, kind), half), wide), constant(wide, 0x3F000000))

    isnan = b.icmp_unsigned(">", magnitude, constant(wide, 0x7F800000))
    large = b.select(isnan, constant(wide, 0x7E00), constant(wide, 0x7C00))
    number = b.select(b.icmp_unsigned("<", magnitude, constant(wide, 0x38800000)), small, normal)
    number = b.select(b.icmp_unsigned(">=", magnitude, constant(wide, 0x47800000)), large, number)
    sign = b.and_(b.lshr(bits, constant(wide, 16)), constant(wide, 0x8000))
    return b.trunc(b.or_(number, sign), short)


def load_bf16(b: Builder, where: Value) -> Value:
    """Emit loading 16 bfloat16 as float32."""
    return b.bitcast(b.shl(b.zext(load(b, where, SHORTS), INTS), constant(INTS, 16)), FLOATS)


def store_bf16(b: Builder, value: Value, where: Value) -> None:
    """Emit storing a vector of float32 as bfloat16, rounded to the nearest, ties to even."""
    n = value.type.count
    wide, short = ir.VectorType(I32, n), ir.VectorType(I16, n)
    bits = b.bitcast(value, wide)
    odd = b.and_(b.lshr(bits, constant(wide, 16)), constant(wide, 1))
    rounded = b.add(b.add(bits, odd), constant(wide, 0x7FFF))
    isnan = b.icmp_unsigned(">", b.and_(bits, constant(wide, 0x7FFFFFFF)), constant(wide, 0x7F800000))
    chosen = b.select(isnan, b.or_(bits, constant(wide, 1 << 22)), rounded)  # NaN keeps its sign and becomes quiet
    store(b, b.trunc(b.lshr(chosen, constant(wide, 16)), short), where)


def multiply_pairs(b: Builder, total: Value, x: Value, y: Value) -> Value:
    """Emit ``total + x1·y1 + x0·y0`` in each lane.

    A lane of ``x`` and ``y``, int32, holds two bfloat16; x0 and y0 are the low 16 bits. Each addition is rounded, as by
    ``vpdpbf16ps`` (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2).
    """
    for half in (_high_bf16, _low_bf16):
        total = fma(b, half(b, x), half(b, y), total)
    return total


def _high_bf16(b: Builder, pairs: Value) -> Value:
    return b.bitcast(b.and_(pairs, constant(INTS, 0xFFFF0000)), FLOATS)


def _low_bf16(b: Builder, pairs: Value) -> Value:
    return b.bitcast(b.shl(pairs, constant(INTS, 16)), FLOATS)


def reduce(b: Builder, vector: Value, combine: Callable[[Value, Value], Value]) -> Value:
    """Emit the combination of all lanes into a scalar, in a fixed order: halves, then quarters …"""
    n = vector.type.count
    while n > 1:
        n //= 2
        vector = combine(take(b, vector, list(range(n))), take(b, vector, list(range(n, 2 * n))))
    return b.extract_element(vector, constant(I32, 0))


def maximum(b: Builder, x: Value, y: Value) -> Value:
    """Emit the greater of each two lanes; ``y`` if ``x`` is NaN."""
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def exp(b: Builder, x: Value) -> Value:
    """Emit e**x of float32 lanes with a relative error below 1e-6; NaN stays NaN.

    The polynomial is Cephes' expf.
    """
    x = b.select(b.fcmp_ordered("<", x, constant(FLOATS, -87.0)), constant(FLOATS, -87.0), x)
    x = b.select(b.fcmp_ordered(">", x, constant(FLOATS, 88.0)), constant(FLOATS, 88.0), x)

    rounder = constant(FLOATS, 1.5 * 2**23)  # adding it leaves the nearest integer in the low bits of the mantissa
    shifted = fma(b, x, constant(FLOATS, 1.4426950408889634), rounder)
    n = b.fsub(shifted, rounder)
    r = fma(b, n, constant(FLOATS, -0.693359375), x)
    r = fma(b, n, constant(FLOATS, 2.12194440e-4), r)

    p = constant(FLOATS, 1.9875691500e-4)
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = fma(b, p, r, constant(FLOATS, c))
    p = fma(b, p, b.fmul(r, r), b.fadd(r, constant(FLOATS, 1.0)))

    power = b.add(b.shl(b.bitcast(shifted, INTS), constant(INTS, 23)), constant(INTS, 127 << 23))
    return b.fmul(p, b.bitcast(power, FLOATS))


def prefetch(b: Builder, where: Value, level: int = 2) -> None:
    """Emit a prefetch of a cache line into the cache of a level, 1 or 2.

    The address may be invalid. Level 0 is for data that is read once: the first level, from which it does not move to
    larger caches when it is evicted.

    Data that is needed much later evicts what is in use from the first level: reading then takes twice as long.
    """
    locality = (0, 3, 2)[level]  # prefetchnta, prefetcht0, prefetcht1
    pointer = b.inttoptr(where, ir.PointerType())
    call(b, "llvm.prefetch.p0", ir.VoidType(), [pointer, constant(I32, 0), constant(I32, locality), constant(I32, 1)])


def loop(
    b: Builder, count: Value, values: list[Value], body: Callable[[Value, list[Value]], list[Value]]
) -> list[Value]:
    """Emit ``for i in range(count): values = body(i, values)`` and return the last values."""
    before = b.block
    head, after = b.append_basic_block("loop"), b.append_basic_block("after")
    b.cbranch(b.icmp_signed(">", count, constant(I64, 0)), head, after)

    b.position_at_end(head)
    i = b.phi(I64)
    carried = [b.phi(value.type) for value in values]
    results = body(i, list(carried))
    latch, following = b.block, b.add(i, constant(I64, 1))
    b.cbranch(b.icmp_signed("<", following, count), head, after)
    for phi, first, later in zip([i, *carried], [constant(I64, 0), *values], [following, *results], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(later, latch)

    b.position_at_end(after)
    last = [b.phi(value.type) for value in values]
    for phi, first, later in zip(last, values, results, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(later, latch)
    return last


def smaller(b: Builder, x: Value, y: Value) -> Value:
    """Emit the smaller of two integers."""
    return b.select(b.icmp_signed("<", x, y), x, y)


def larger(b: Builder, x: Value, y: Value) -> Value:
    """Emit the larger of two integers."""
    return b.select(b.icmp_signed(">", x, y), x, y)


def function(module: Any, name: str, n_arguments: int, body: Callable[[Builder, list[Value]], None]) -> Any:
    """Emit an internal function of integers without a result, once per module; return it."""
    if name in module.globals:
        return module.globals[name]
    emitted = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * n_arguments), name)
    emitted.linkage = "internal"
    emitted.attributes.add("noinline")  # a single copy, with its own allocation of registers
    emitted.attributes.alignstack = 64  # registers that are kept on the stack do not cross cache lines
    b = ir.IRBuilder(emitted.append_basic_block("entry"))
    body(b, list(emitted.args))
    b.ret_void()
    return emitted
