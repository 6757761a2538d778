"""The positions of a head are divided into segments, which threads share: bits depend on positions only."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g
from checkpoints import all_checkpoints, write
from llamafw.testing.batches import batch, logits
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_backends.numba_cpu import softmax
from llamafw_backends.numba_cpu.attention import SHARED_ITEMS
from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.softmax import join_softmax
from support.numba_backend import fill_with_nan, make_context, open_backend

pytestmark = pytest.mark.slow

N_TOKENS = 150
TOKENS = [(7 * i * i + 3 * i + 1) % 100 for i in range(N_TOKENS)]
F32: dict[str, Any] = {"cache_type_k": "f32", "cache_type_v": "f32"}

MODELS: dict[str, dict[str, Any]] = {
    "one KV head": {},
    "several heads": {"n_head": 6, "n_head_kv": 3},
    "more heads than are computed at once": {"n_head": 11, "n_head_kv": 1, "n_embd": 352},
    "q8_0": {"cache": "q8_0"},
    "q5_1": {"cache": "q5_1"},
    "gemma3-scaled": {},  # windows
    "gpt-oss": {},  # windows and sinks
    "deepseek2-dense-mtp": {},  # values are parts of keys
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file of a model, and options of the backend."""
    sizes = dict(MODELS[request.param])
    cache = sizes.pop("cache", "f16")
    path = folder / f"{request.param}.gguf"
    if not path.exists():
        found = [one for one in all_checkpoints() if one.name == request.param]
        if found:
            write(found[0], path)
        else:
            write_tiny_gguf(path, types="F16", **{"n_head": 3, "n_head_kv": 1, "n_embd": 96} | sizes)
    return path, {"cache_type_k": cache, "cache_type_v": cache}


@pytest.fixture
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax, "SEGMENT", 16)


def test_long_texts_match_float64(folder: Path) -> None:
    n = 2 * softmax.SEGMENT + 60
    tokens = [(5 * i * i + i + 3) % 100 for i in range(n)]
    path = write_tiny_gguf(folder / "long.gguf", types="F32", n_head=3, n_head_kv=1, n_embd=96)
    context = make_context(path)
    evaluator = g.Evaluator(context.graph, g.read_weights(context.model, context.quants))
    assert context.graph.logits is not None
    (expected,) = evaluator(tokens, g.TextState(context.graph, n), context.graph.logits)
    with open_backend(path, n_ctx=n + 1, n_threads=3, **F32) as backend:
        fill_with_nan(backend)
        got = logits(backend, tokens, [n - 5, 1, 1, 1, 1, 1])
    assert np.abs(got - expected).max() < 1e-4 * np.abs(expected).max()


def test_bits_do_not_depend_on_threads_and_batches(model: tuple[Path, dict[str, Any]], short_segments: None) -> None:
    path, options = model
    rng = np.random.default_rng(5)
    with open_backend(path, n_ctx=160, **options) as backend:
        fill_with_nan(backend)
        expected = logits(backend, TOKENS, [1] * N_TOKENS)
    for n_threads in (2, 3, 7):
        sizes: dict[str, Any] = {"n_ctx": 160, "n_slots": 3, "n_threads": n_threads, "n_threads_batch": n_threads}
        with open_backend(path, **sizes, **options) as backend:
            fill_with_nan(backend)
            np.testing.assert_array_equal(logits(backend, TOKENS, [1] * N_TOKENS, slot=1), expected)
            splits = np.sort(rng.choice(np.arange(1, N_TOKENS), 20, replace=False))
            parts = np.diff([0, *splits, N_TOKENS]).tolist()
            np.testing.assert_array_equal(logits(backend, TOKENS, parts), expected)
            np.testing.assert_array_equal(beside_others(backend), expected[-30:])


def beside_others(backend: Any) -> Any:
    """Return the logits of the last 30 tokens of slot 0, one by one, beside a long and a short text."""
    backend.truncate(0, N_TOKENS - 30)
    backend.truncate(1, N_TOKENS - 40)
    backend.truncate(2, 0)
    rows = []
    for i in range(30):
        runs = (1, N_TOKENS - 40 + i, [9]), (0, N_TOKENS - 30 + i, TOKENS[N_TOKENS - 30 + i :][:1]), (2, 2 * i, [5, 7])
        rows.append(backend.forward(batch(*runs, outputs=[1])).copy())
    return np.concatenate(rows)


def test_segments_change_rounding_only(model: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    path, options = model
    found = []
    for segment in (512, 16, 48):
        monkeypatch.setattr(softmax, "SEGMENT", segment)
        with open_backend(path, n_ctx=160, n_threads=2, **options) as backend:
            fill_with_nan(backend)
            found.append(logits(backend, TOKENS, [70, *[1] * (N_TOKENS - 70)]))
    for other in found[1:]:
        assert np.abs(other - found[0]).max() < 0.02 * np.abs(found[0]).max()


def test_more_items_than_threads_share(short_segments: None, folder: Path) -> None:
    """So many that each thread computes its own, in the same batch sizes as those that are shared."""
    path = write_tiny_gguf(folder / "many.gguf", types="F16", n_head=4, n_head_kv=2, n_embd=128)
    n_slots = SHARED_ITEMS + 3
    with ExitStack() as stack:
        options: dict[str, Any] = {"n_ctx": 96, "n_slots": n_slots}
        one, two = (stack.enter_context(open_backend(path, n_threads=n, **options)) for n in (1, 2))
        for backend in (one, two):
            fill_with_nan(backend)
        for n in range(1, n_slots + 1):
            for first, tokens in ((0, TOKENS[:70]), (70, [3]), (71, [5, 7])):
                runs = [(slot, first, [(token + slot) % 100 for token in tokens]) for slot in range(n)]
                results = [backend.forward(batch(*runs)).copy() for backend in (one, two)]
                np.testing.assert_array_equal(*results)
            for backend in (one, two):
                for slot in range(n):
                    backend.truncate(slot, 0)


@jit
def _join(results: int, n: int, stride: int, sink: int) -> Any:
    return join_softmax(results, n, stride, sink)


@pytest.fixture(params=[None, -2.0, 30.0], ids="sink {}".format)
def sink(request: pytest.FixtureRequest) -> Any:
    return None if request.param is None else np.array([request.param], np.float32)


def test_maxima_and_sums_of_segments_are_joined(sink: Any) -> None:
    rng = np.random.default_rng(6)
    for n in (1, 2, 9):
        scores = [rng.normal(0, 8, size).astype(np.float64) for size in rng.integers(1, 40, n)]
        pairs = [(one.max(), np.exp(one - one.max()).sum()) for one in scores]
        pairs.insert(int(rng.integers(n + 1)), (-3e38, 0.0))  # a segment of which nothing is seen
        results = np.array([[*pair, 7.0, 7.0] for pair in pairs], np.float32)
        address = 0 if sink is None else int(sink.ctypes.data)
        inverse = _join(int(results.ctypes.data), n + 1, 16, address)

        everything = np.concatenate([*scores, [] if sink is None else sink.astype(np.float64)])
        np.testing.assert_allclose(inverse, 1 / np.exp(everything - everything.max()).sum(), rtol=1e-5)
        factors = [np.exp(max(top - everything.max(), -87)) for top, _ in pairs]
        np.testing.assert_allclose(results[:, 0], factors, rtol=1e-5)
        np.testing.assert_array_equal(results[:, 2:], 7.0)
