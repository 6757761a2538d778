"""Latent attention (MLA) reads values from the keys: nothing is stored twice, and bits depend on positions only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g
from checkpoints import all_checkpoints, write
from llamafw.engine.memory_check import slot_bytes
from llamafw.testing.batches import batch, logits
from llamafw_backends.numba_cpu.attention_emit import emit_latent_values, sum_rows
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler
from llamafw_backends.numba_cpu.pages import PAGE
from llamafw_backends.numba_cpu.simd import load_i64, specialised
from support.numba_backend import cached_keys, fill_with_nan, make_context, open_backend

N_TOKENS = 1100  # more than two of the chunks in which values are summed
TOKENS = [(7 * i * i + 3 * i + 1) % 100 for i in range(N_TOKENS)]
F32: dict[str, Any] = {"cache_type_k": "f32", "cache_type_v": "f32"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (checkpoint,) = [one for one in all_checkpoints() if one.name == "deepseek2-dense-mtp"]
    return write(checkpoint, tmp_path_factory.mktemp("model") / "model.gguf")


def with_windows(graph: g.Graph) -> g.Graph:
    """Give the attention of a graph windows, within a chunk and over several."""
    sizes = iter((37, 700, 520))

    def change(value: g.Value) -> g.Value:
        return replace(value, window=next(sizes)) if isinstance(value, g.Attention) else value

    return g.rewrite(graph, change)


@pytest.mark.parametrize("change", [None, with_windows])
def test_long_contexts_match_float64(path: Path, change: Any) -> None:
    context = make_context(path, change=change)
    evaluator = g.Evaluator(context.graph, g.read_weights(context.model, context.quants))
    assert context.graph.logits is not None
    (expected,) = evaluator(TOKENS, g.TextState(context.graph, N_TOKENS), context.graph.logits)

    with open_backend(path, n_ctx=1200, n_threads=2, change=change, **F32) as backend:
        fill_with_nan(backend)
        assert np.abs(logits(backend, TOKENS) - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("change", [None, with_windows])
@pytest.mark.parametrize("kind", ["f16", "bf16", "f32"])
def test_bits_do_not_depend_on_batches(path: Path, kind: str, change: Any) -> None:
    options = {"n_ctx": 1200, "n_slots": 3, "cache_type_k": kind, "change": change}
    with open_backend(path, n_ubatch=300, **options) as single, open_backend(path, n_threads=3, **options) as threaded:
        fill_with_nan(single)
        fill_with_nan(threaded)
        expected = logits(single, TOKENS, [500, 1, 1, 598])
        assert np.isfinite(expected).all()
        np.testing.assert_array_equal(logits(threaded, TOKENS, [15, 17, 1000, *[1] * 68], slot=1), expected)
        rows = []
        for first in range(0, N_TOKENS, 220):
            runs = (0, first // 11, TOKENS[:20]), (2, first, TOKENS[first : first + 220])
            rows.append(threaded.forward(batch(*runs, outputs=range(20, 240))).copy())
        np.testing.assert_array_equal(np.concatenate(rows), expected)


def test_only_keys_are_stored(path: Path) -> None:
    options: dict[str, Any] = {"n_ctx": 128, "n_slots": 2, "cache_type_v": "f32"}
    context = make_context(path, **options)
    with open_backend(path, **options) as backend:
        n_bytes = 3 * (64 + 16) * 2  # of a position: three layers, the latent row and the rotated part, float16
        assert backend.state_size(16) == 16 * n_bytes
        assert (
            backend._kv.n_bytes
            == 2 * 128 * n_bytes
            == slot_bytes(context.graph, context.options).total(context.options)
        )


@pytest.mark.parametrize("n", [1, 16, 517, 1088])
def test_restored_slot_continues_with_identical_logits(path: Path, n: int) -> None:
    with open_backend(path, n_ctx=1200) as backend:
        expected = logits(backend, TOKENS)
        state = backend.save(0, n)
        backend.truncate(0, 0)
        fill_with_nan(backend)
        backend.restore(1, n, state)
        assert len(state) == backend.state_size(n)
        np.testing.assert_array_equal(backend.forward(batch((1, n, TOKENS[n:]))), expected[n:])


def test_shifted_latent_rows_are_those_of_the_new_positions(path: Path) -> None:
    """In the first layer they depend only on token and position."""
    with open_backend(path, n_ctx=96, **F32) as backend:
        assert backend.can_shift
        logits(backend, TOKENS[:60])
        backend.shift(0, 4, 17)
        logits(backend, TOKENS[:4] + TOKENS[21:60], slot=1)
        keys = cached_keys(backend)[:, 0, :43]
        np.testing.assert_allclose(keys[0], keys[1], atol=2e-5)


_latent_values = specialised("latent values", 4, 10, emit_latent_values)


@pytest.mark.parametrize("n_rows", range(1, 9))
def test_values_of_any_number_of_heads_are_summed(n_rows: int) -> None:
    """It does not matter where the pages of a slot are."""
    key_size, size, n_positions = 48, 32, 19 * PAGE

    def run(record: int) -> int:
        arguments = (load_i64(record), load_i64(record + 8), load_i64(record + 16), load_i64(record + 24))
        more = (load_i64(record + 32), load_i64(record + 40), load_i64(record + 48), load_i64(record + 56))
        _latent_values(n_rows, key_size, size, "f32", (*arguments, *more, load_i64(record + 64), load_i64(record + 72)))
        return 0

    kernel = KernelCompiler(lambda line: None)(f"test latent values {n_rows}", 1, run).ctypes
    rng = np.random.default_rng(n_rows)
    weights, factors = (rng.random(shape, np.float32) for shape in ((n_rows, n_positions), n_rows))
    keys = rng.standard_normal((n_positions, key_size)).astype(np.float32)
    pages = np.arange(19), np.array([0, 1, 2, 9, 10, 3, 4, 5, 6, 7, 8, *range(18, 10, -1)])
    for start, last in ((0, 1), (0, 16), (16, 47), (496, 1100), (0, 1200)):
        weights_here, keys_here = weights.copy(), keys.copy()
        weights_here[:, last:], keys_here[last:] = 0, np.nan
        results = []
        for numbers in pages:
            blocks = np.empty((19, PAGE // 16, key_size, 16), np.float32)
            blocks[numbers] = keys_here.reshape(19, PAGE // 16, 16, key_size).swapaxes(2, 3)
            runs = runs_of(numbers, start // 16, (last + 15) // 16, 64 * key_size)
            sums, out = (np.full(shape, np.nan, np.float32) for shape in ((size, sum_rows(n_rows)), (n_rows, size)))
            arrays = [int(one.ctypes.data) for one in (weights_here, blocks, runs, sums, factors, out)]
            record = np.array([arrays[0], 4 * n_positions, *arrays[1:3], len(runs), start, last, *arrays[3:]], np.int64)
            kernel(record.ctypes.data)
            results.append(out)

        expected = weights[:, start:last].astype(np.float64) @ keys[start:last, :size] * factors[:, None]
        np.testing.assert_allclose(results[0], expected, rtol=1e-5, atol=1e-4)
        np.testing.assert_array_equal(results[1], results[0])


def runs_of(numbers: Any, first: int, end: int, block_bytes: int) -> Any:
    """Return runs of a page each: the first block, the end, and the distances in memory."""
    n = PAGE // 16
    runs = [
        (max(first, page * n), min(end, (page + 1) * n), (numbers[page] - page) * n * block_bytes, 0, 0)
        for page in range(first // n, -(-end // n))
    ]
    return np.array(runs, np.int64)
