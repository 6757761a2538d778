"""The numeric functions of the kernels are accurate: exp, the RoPE table, and float16 conversion with integers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from llamafw.graph import TOKENS, EmbeddingLookup, GroupedPositions, Reshape, Rope, Rotation, Weight
from llamafw.graph.rows import FUNCTIONS
from llamafw_backends.numba_cpu import emit, row_kernels, simd
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler, jit
from llamafw_backends.numba_cpu.kernel_records import ROW_OP, address_of, new_records
from llamafw_backends.numba_cpu.rotations import Rotations


def compiler() -> KernelCompiler:
    return KernelCompiler(lambda line: None)


@jit
def _exp(source: int, out: int) -> None:
    simd.store(simd.exp(simd.load(source)), out)


def exponentials(source: int, n: int, out: int) -> int:
    """Write e**x of n floats."""
    for i in range(0, 4 * n, 64):
        _exp(source + i, out + i)
    return 0


def test_exp_is_accurate() -> None:
    x = np.linspace(-87, 88, 1 << 16).astype(np.float32)
    special = np.array([0, -0.0, -1e30, -np.inf, 1e30, np.inf, np.nan, *[1] * 9], np.float32)
    x = np.concatenate([x, special])
    y = np.empty_like(x)
    compiler()("exponentials", 3, exponentials).ctypes(x.ctypes.data, len(x), y.ctypes.data)

    expected = np.exp(x[:-16].astype(np.float64))
    assert (np.abs(y[:-16] / expected - 1) < 1e-6).all()
    assert list(y[-16:-14]) == [1, 1]
    assert (y[-14:-12] < 1e-37).all()
    assert (y[-12:-10] > 1e38).all()
    assert math.isnan(y[-10])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activation_functions_are_accurate(name: str) -> None:
    op = new_records(ROW_OP)
    op["function"] = row_kernels.FUNCTIONS[name]
    x = np.concatenate([np.linspace(-40, 40, 1 << 12), [0.0, -0.0, 1e-8, -1e-8] * 4]).astype(np.float32)
    y = np.empty_like(x)
    run = compiler()("row activation", 8, row_kernels.activation).ctypes
    run(0, address_of(op), x.ctypes.data, 0, y.ctypes.data, 0, len(x), 0)

    expected = FUNCTIONS[name](x.astype(np.float64))
    scale = np.abs(x) if name.startswith("gelu") else 0.1  # of what is added to or subtracted from a larger number
    assert (np.abs(y - expected) <= 2e-6 * np.maximum(np.abs(expected), scale)).all()


def rope_of(rotation: Rotation) -> Rope:
    return Rope(Reshape(EmbeddingLookup(TOKENS, Weight("w", (3, 4))), (1, 4)), rotation)


def test_rotation_tables_have_the_cosines_and_sines_of_each_position() -> None:
    rope, rotations = rope_of(Rotation(np.array([1.0, 0.25]), 1.5)), Rotations(300)
    table = rotations.table(rope, interleaved=False).values
    assert table.shape == (304, 2, 2)  # whole vectors of positions
    assert table[299, 0, 1] == pytest.approx(1.5 * math.cos(299 * 0.25))
    assert table[299, 1, 0] == pytest.approx(1.5 * math.sin(299))

    pairs = rotations.table(rope, interleaved=True).values
    assert pairs.shape == (304, 2, 4)
    np.testing.assert_array_equal(pairs[:, 0], np.repeat(table[:, 0], 2, 1))
    np.testing.assert_array_equal(pairs[:, 1, 1::2], table[:, 1])
    np.testing.assert_array_equal(pairs[:, 1, ::2], -table[:, 1])  # of the first number of a pair


def test_equal_rotations_share_a_table() -> None:
    rotations, frequencies = Rotations(64), np.array([1.0, 0.25])
    tables = [rotations.table(rope_of(Rotation(frequencies.copy(), magnitude)), False) for magnitude in (1.0, 1.0, 1.5)]
    assert tables[0] is tables[1]
    assert tables[1] is not tables[2]


def test_table_of_grouped_positions_has_the_angles_of_groups() -> None:
    rope = replace(rope_of(Rotation(np.array([0.25]))), positions=GroupedPositions(2, 8))
    table = Rotations(64).table(rope, interleaved=False).values
    assert table[11, 0, 0] == pytest.approx(math.cos((4 + 3) * 0.25))


@pytest.mark.parametrize(("n_ctx", "frequency"), [(64, 1.0), (65, 0.5)])
def test_rotation_tables_have_the_frequencies_of_the_context(n_ctx: int, frequency: float) -> None:
    rotation = Rotation(np.array([1.0]), long_frequencies=np.array([0.5]), original_context=64)
    table = Rotations(n_ctx).table(rope_of(rotation), interleaved=False).values
    assert table[3, 0, 0] == pytest.approx(math.cos(3 * frequency))


_widen = simd.operation(simd.floats, (simd.i64,), lambda b, a: emit.widen(b, emit.load(b, a, emit.SHORTS)))
_narrow = simd.operation(simd.void, (simd.floats, simd.i64), lambda b, v, a: emit.store(b, emit.narrow(b, v), a))
_widen_one = simd.operation(simd.f32, (simd.i64,), lambda b, a: emit.widen(b, emit.load(b, a, emit.I16)))
_narrow_one = simd.operation(simd.void, (simd.f32, simd.i64), lambda b, v, a: emit.store(b, emit.narrow(b, v), a))


def conversions(halves: int, n: int, singles: int, back: int) -> int:
    """Widen n float16, 16 at a time and one by one, and narrow them again."""
    for i in range(0, n, 16):
        simd.store(_widen(halves + 2 * i), singles + 4 * i)
        _narrow(simd.load(singles + 4 * i), back + 2 * i)
    for i in range(n):
        simd.store_f32(_widen_one(halves + 2 * i), singles + 4 * (n + i))
        _narrow_one(simd.load_f32(singles + 4 * (n + i)), back + 2 * (n + i))
    return 0


def narrowing(singles: int, n: int, halves: int) -> int:
    """Narrow n float32, 16 at a time."""
    for i in range(0, n, 16):
        _narrow(simd.load(singles + 4 * i), halves + 2 * i)
    return 0


def test_float16_conversion_with_integers_is_exact() -> None:
    compile_kernel = compiler()
    halves = np.arange(1 << 16).astype(np.uint16)
    singles, back = np.empty(2 << 16, np.float32), np.empty(2 << 16, np.uint16)
    compile_kernel("conversions", 4, conversions).ctypes(
        halves.ctypes.data, 1 << 16, singles.ctypes.data, back.ctypes.data
    )

    expected = halves.view(np.float16)
    finite = np.tile(~np.isnan(expected), 2)
    np.testing.assert_array_equal(singles, np.tile(expected, 2).astype(np.float32))
    np.testing.assert_array_equal(back[finite], np.tile(halves, 2)[finite])
    assert np.isnan(back.view(np.float16)[~finite]).all()

    bits = np.random.default_rng(6).integers(0, 1 << 32, 1 << 18, dtype=np.uint32)
    bits[:2048] = 0x38000000 + np.arange(2048) * 4096  # around the smallest normal float16, with ties
    bits[2048:4096] = 0x477F0000 + np.arange(2048) * 16  # around the largest float16
    values = bits.view(np.float32)
    got = np.empty(1 << 18, np.float16)
    compile_kernel("narrowing", 3, narrowing).ctypes(values.ctypes.data, len(values), got.ctypes.data)
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_array_equal(got, values.astype(np.float16))
