"""Threads that sleep when idle, compiled code that is kept, memory that costs nothing, and the odd formula."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llamafw_backends.numba_cpu import cache, emit, simd
from llamafw_backends.numba_cpu.backend import rope_table
from llamafw_backends.numba_cpu.cache import Compiler, jit
from llamafw_backends.numba_cpu.memory import Arena
from llamafw_backends.numba_cpu.threads import HAS_FUTEX, MAX_THREADS, Pool, share


def compiler() -> Compiler:
    return Compiler(lambda line: None)


def until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        os.sched_yield()
    return True


def count(argument: int, thread: int) -> int:
    """Add one to this thread's counter."""
    simd.store_i64(simd.load_i64(argument + 64 * thread) + 1, argument + 64 * thread)
    return 0


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_every_thread_runs_every_job_once(n_threads: int) -> None:
    make = compiler()
    job = make("count", 2, count)
    pool = Pool(n_threads, make)
    counters = np.zeros((MAX_THREADS, 8), np.int64)
    for _ in range(300):
        pool.run(job.address, counters.ctypes.data, n_threads)
    pool.run(job.address, counters.ctypes.data, 1)
    pool.close()
    assert list(counters[: n_threads + 1, 0]) == [301, *[300] * (n_threads - 1), 0]


def test_there_is_a_limit() -> None:
    for n_threads in (0, MAX_THREADS + 1):
        with pytest.raises(ValueError, match=f"{n_threads} threads"):
            Pool(n_threads, compiler())


@pytest.mark.skipif(not HAS_FUTEX, reason="elsewhere than on Linux idle workers wake up once per millisecond")
def test_idle_workers_sleep() -> None:
    pool = Pool(3, compiler())
    workers = [t.native_id for t in threading.enumerate() if t.name.startswith("llamafw-numba")]
    assert len(workers) == 2

    def asleep() -> bool:
        states = [Path(f"/proc/self/task/{worker}/stat").read_text().rsplit(")", 1)[1].split()[0] for worker in workers]
        return states == ["S", "S"]

    assert until(asleep)
    pool.close()
    assert until(lambda: not any(t.name.startswith("llamafw-numba") for t in threading.enumerate()))


def test_shares_cover_everything_once() -> None:
    for n, n_threads in ((0, 3), (2, 3), (36, 2), (100, 7)):
        parts = [share(n, thread, n_threads) for thread in range(n_threads)]
        assert [i for first, last in parts for i in range(first, last)] == list(range(n))


COLD = """
from llamafw_backends.numba_cpu.cache import Compiler
from llamafw_backends.numba_cpu.threads import Pool
compiler = Compiler(print)
Pool(2, compiler).close()
print("compiled", compiler.compiled)
"""


def test_the_second_start_compiles_nothing(tmp_path: Path) -> None:
    def start() -> str:
        env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        return subprocess.run([sys.executable, "-c", COLD], env=env, check=True, capture_output=True, text=True).stdout

    first, second = start(), start()
    assert "compiling kernels for this processor" in first
    assert "compiled threads.work in" in first
    assert second.splitlines() == ["compiled []"]


def test_compiled_code_depends_on_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache.numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    folders = []
    for text in ("a = 1", "a = 2", "a = 1"):
        source = tmp_path / "package"
        source.mkdir(exist_ok=True)
        (source / "emit.py").write_text(text)
        monkeypatch.setattr(cache, "__file__", str(source / "cache.py"))
        cache.cache_folder.cache_clear()
        folders.append(cache.cache_folder())
    cache.cache_folder.cache_clear()
    assert folders[0] == folders[2] != folders[1]
    assert all(folder and folder.parent == tmp_path / "cache" for folder in folders)


def test_nowhere_to_write_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cache.numba.config, "CACHE_DIR", str(tmp_path / "file"))
    cache.cache_folder.cache_clear()
    made = compiler()("count", 2, count)
    cache.cache_folder.cache_clear()
    assert made.address


def test_arenas_are_aligned_and_finite() -> None:
    arena = Arena(1000)
    addresses = [arena.take(100) for _ in range(7)]
    assert all(address % 64 == 0 for address in addresses)
    assert not arena.view(addresses[3], (25,), np.float32).any()
    with pytest.raises(MemoryError):
        arena.take(200)


def test_untouched_memory_costs_nothing() -> None:
    arena = Arena(1 << 40)  # a terabyte
    address = arena.take(1 << 39)
    arena.view(address + (1 << 38), (4,), np.int32)[...] = 7
    assert arena.view(address + (1 << 38), (1,), np.int32)[0] == 7


@jit
def _exp(source: int, out: int) -> None:
    simd.store(simd.exp(simd.load(source)), out)


def exponentials(source: int, n: int, out: int) -> int:
    """Write e**x of n floats."""
    for i in range(0, 4 * n, 64):
        _exp(source + i, out + i)
    return 0


def test_exp() -> None:
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


def test_rope_table() -> None:
    frequencies = np.array([1.0, 0.25])
    table = rope_table(frequencies, 1.5, 300)
    assert table.shape == (300, 2, 2)
    assert table[299, 0, 1] == pytest.approx(1.5 * math.cos(299 * 0.25))
    assert table[299, 1, 0] == pytest.approx(1.5 * math.sin(299))


_widen = simd.operation(simd.floats, (simd.i64,), lambda b, a: emit.widen(b, emit.load(b, a, emit.SHORTS)))
_narrow = simd.operation(simd.void, (simd.floats, simd.i64), lambda b, v, a: emit.store(b, emit.narrow(b, v), a))
_widen_one = simd.operation(simd.f32, (simd.i64,), lambda b, a: emit.widen(b, emit.load(b, a, emit.I16)))
_narrow_one = simd.operation(simd.void, (simd.f32, simd.i64), lambda b, v, a: emit.store(b, emit.narrow(b, v), a))


def conversions(halves: int, n: int, singles: int, back: int) -> int:
    """Widen n float16, by 16 and one by one; narrow them again."""
    for i in range(0, n, 16):
        simd.store(_widen(halves + 2 * i), singles + 4 * i)
        _narrow(simd.load(singles + 4 * i), back + 2 * i)
    for i in range(n):
        simd.store_f32(_widen_one(halves + 2 * i), singles + 4 * (n + i))
        _narrow_one(simd.load_f32(singles + 4 * (n + i)), back + 2 * (n + i))
    return 0


def narrowing(singles: int, n: int, halves: int) -> int:
    """Narrow n float32, by 16."""
    for i in range(0, n, 16):
        _narrow(simd.load(singles + 4 * i), halves + 2 * i)
    return 0


def test_half_precision_without_instructions_for_it() -> None:
    make = compiler()
    halves = np.arange(1 << 16).astype(np.uint16)
    singles, back = np.empty(2 << 16, np.float32), np.empty(2 << 16, np.uint16)
    make("conversions", 4, conversions).ctypes(halves.ctypes.data, 1 << 16, singles.ctypes.data, back.ctypes.data)
    expected = halves.view(np.float16)
    finite = np.tile(~np.isnan(expected), 2)
    np.testing.assert_array_equal(singles, np.tile(expected, 2).astype(np.float32))
    np.testing.assert_array_equal(back[finite], np.tile(halves, 2)[finite])
    assert np.isnan(back.view(np.float16)[~finite]).all()
    bits = np.random.default_rng(6).integers(0, 1 << 32, 1 << 18, dtype=np.uint32)
    bits[:2048] = 0x38000000 + np.arange(2048) * 4096  # around the smallest normal numbers, ties among them
    bits[2048:4096] = 0x477F0000 + np.arange(2048) * 16  # around the largest
    values = bits.view(np.float32)
    got = np.empty(1 << 18, np.float16)
    make("narrowing", 3, narrowing).ctypes(values.ctypes.data, len(values), got.ctypes.data)
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_array_equal(got, values.astype(np.float16))
