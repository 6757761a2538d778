"""Caches of layers with windows keep the last positions only; bits, cuts, snapshots and saved states stay right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g
from checkpoints import all_checkpoints, write
from llamafw import Floats, LlamafwError, RequestError
from llamafw.testing.batches import batch
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_backends.numba_cpu.cache_arrays import CacheArrays
from llamafw_backends.numba_cpu.pages import ring_table
from llamafw_backends.numba_cpu.ring import Ring, ring_size
from support.numba_backend import fill_with_nan, open_backend

NAMES = ("gemma2", "gemma3-scaled", "gpt-oss", "cohere2")  # their windows have 16 positions, or about as many
N_TOKENS, N_CTX, N_UBATCH = 400, 512, 32
TOKENS = [(7 * i * i + 3 * i + 1) % 100 for i in range(N_TOKENS)]
OTHERS = [(5 * i * i + i + 3) % 100 for i in range(N_CTX)]

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    names = {*NAMES, "gemma4", "qwen35"}
    found = {one.name: write(one, folder / f"{one.name}.gguf") for one in all_checkpoints() if one.name in names}
    assert found.keys() == names
    return found


@pytest.fixture
def open_model(paths: dict[str, Path]) -> Iterator[Open]:
    """Return a function that opens a backend with one of the models."""
    opened = []

    def open_one(name: str, **options: Any) -> Any:
        opened.append(open_backend(paths[name], **{"n_ctx": N_CTX, "n_ubatch": N_UBATCH} | options))
        backend = opened[-1].__enter__()
        fill_with_nan(backend)
        return backend

    yield open_one
    for one in opened:
        one.__exit__(None, None, None)


def evaluate(backend: Any, first: int, last: int, slot: int = 0) -> Floats:
    """Return the logits of the tokens ``first`` … ``last - 1``."""
    logits: Floats = backend.forward(batch((slot, first, TOKENS[first:last]))).copy()
    return logits


def all_logits(open_model: Open, name: str, **options: Any) -> Floats:
    """Return the logits of the text, computed with caches that keep all positions."""
    backend = open_model(name, swa_full=True, **options)
    assert not backend._kv.rings
    return evaluate(backend, 0, N_TOKENS)


def in_batches(backend: Any, sizes: Sequence[int], slot: int = 0) -> Floats:
    """Return the logits of the text in batches of these sizes, beside tokens of other slots."""
    backend.truncate(0, 0)
    backend.truncate(1, 0)
    rows: list[Floats] = []
    first = n_others = 0
    while first < N_TOKENS:
        tokens = TOKENS[first : first + sizes[len(rows) % len(sizes)]]
        others = OTHERS[n_others : n_others + 1 + len(rows) % 3]
        outputs = range(len(others), len(others) + len(tokens))
        rows.append(backend.forward(batch((1 - slot, n_others, others), (slot, first, tokens), outputs=outputs)).copy())
        first, n_others = first + len(tokens), n_others + len(others)
    return np.concatenate(rows)


@pytest.mark.slow
@pytest.mark.parametrize("n_ubatch", [1, 15, 32, 200])
@pytest.mark.parametrize("name", [*NAMES, "gemma4"])
def test_bits_are_those_of_whole_caches(open_model: Open, name: str, n_ubatch: int) -> None:
    expected = all_logits(open_model, name)
    assert np.isfinite(expected).all()
    backend = open_model(name, n_ubatch=n_ubatch, n_threads=2)
    assert backend._kv.rings
    for slot, sizes in enumerate(([N_TOKENS], [1, 17, 30, 150], [5])):
        got = evaluate(backend, 0, N_TOKENS) if slot == 0 else in_batches(backend, sizes, slot % 2)
        np.testing.assert_array_equal(got, expected, err_msg=str(sizes))
        backend.truncate(0, 0)
        backend.truncate(1, 0)
        fill_with_nan(backend)


def with_windows(*windows: tuple[int | None, str]) -> Callable[[g.Graph], g.Graph]:
    """Return a function that gives the attention of layers these windows in turn."""

    def change(graph: g.Graph) -> g.Graph:
        attention = [value for value in graph if isinstance(value, g.Attention)]
        numbers = iter(range(len(attention)))

        def changed(value: g.Value) -> g.Value:
            if not isinstance(value, g.Attention):
                return value
            window, kind = windows[next(numbers) % len(windows)]
            return g.attention(value.q, value.past, value.scale, window=window, window_kind=kind)

        return g.rewrite(graph, changed)

    return change


@pytest.mark.parametrize(
    "windows",
    [[(100, "sliding")], [(1, "sliding"), (None, "sliding")], [(40, "chunked")], [(40, "chunked"), (150, "sliding")]],
    ids=str,
)
def test_any_window_gives_the_bits_of_whole_caches(open_model: Open, windows: Any) -> None:
    change = with_windows(*windows)
    expected = all_logits(open_model, "cohere2", change=change)
    backend = open_model("cohere2", change=change, cache_type_k="f16")
    assert {ring.window for ring in backend._kv.rings} == {window for window, _ in windows if window is not None}
    np.testing.assert_array_equal(evaluate(backend, 0, N_TOKENS), expected)
    np.testing.assert_array_equal(in_batches(backend, [1, 17, 30, 150], slot=1), expected)


@pytest.mark.parametrize("types", [("q8_0", "q4_1"), ("q4_0", "q5_0"), ("bf16", "iq4_nl")], ids="/".join)
def test_quantised_windows_have_the_bits_of_whole_caches(types: tuple[str, str], tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"n_embd": 128, "n_head": 4, "n_head_kv": 2, "n_embd_head": 32}
    path = write_tiny_gguf(tmp_path / "m.gguf", types="Q8_0", n_layer=2, **sizes)
    options: dict[str, Any] = {"n_ctx": N_CTX, "n_ubatch": N_UBATCH, "cache_type_k": types[0], "cache_type_v": types[1]}
    options["change"] = with_windows((100, "sliding"), (40, "chunked"))
    with open_backend(path, swa_full=True, **options) as backend:
        fill_with_nan(backend)
        expected = evaluate(backend, 0, N_TOKENS)

    with open_backend(path, **options) as backend:
        assert len(backend._kv.rings) == 2
        fill_with_nan(backend)
        np.testing.assert_array_equal(in_batches(backend, [1, 17, 30, 150]), expected)
        backend.truncate(0, 0)
        np.testing.assert_array_equal(evaluate(backend, 0, 231), expected[:231])
        backend.take_snapshot(0)
        evaluate(backend, 231, N_TOKENS)
        assert backend.truncate(0, 240) == 231  # the ring is restored from the snapshot
        np.testing.assert_array_equal(evaluate(backend, 231, N_TOKENS), expected[231:])
        backend.restore(1, 390, backend.save(0, 390))
        np.testing.assert_array_equal(evaluate(backend, 390, N_TOKENS, slot=1), expected[390:])


def test_caches_keep_a_window_and_a_ubatch(open_model: Open) -> None:
    whole, backend = (open_model("gemma2", swa_full=full) for full in (True, False))
    assert whole.can_cut
    assert whole.can_shift
    assert not backend.can_cut
    assert not backend.can_shift
    sizes = [cache.n_positions for cache in backend._kv.caches]
    assert set(sizes) == {ring_size(16, N_UBATCH, N_CTX), N_CTX} == {128, N_CTX}
    assert backend._kv.n_bytes / whole._kv.n_bytes == pytest.approx(sum(sizes) / len(sizes) / N_CTX)


def test_short_contexts_are_kept_whole(open_model: Open) -> None:
    backend = open_model("gemma2", n_ctx=128)
    assert backend.can_cut
    assert not backend._kv.rings
    assert ring_size(window=16, n_ubatch=N_UBATCH, n_ctx=129) == 128


@pytest.mark.parametrize("name", NAMES)
def test_slot_is_cut_where_the_window_is_kept(open_model: Open, name: str) -> None:
    """A ring of 128 positions has lost those before 272, and the window of position 287 begins at 272."""
    backend = open_model(name)
    expected = evaluate(backend, 0, N_TOKENS)
    for n in (399, 384, 350, 288, 287):
        assert backend.truncate(0, n) == n
        np.testing.assert_array_equal(evaluate(backend, n, n + 1), expected[n : n + 1])
    np.testing.assert_array_equal(evaluate(backend, 288, N_TOKENS), expected[288:])
    assert backend.truncate(0, 286) == 0
    np.testing.assert_array_equal(evaluate(backend, 0, 60), expected[:60])
    assert backend.truncate(0, 1) == 1  # nothing was lost since the slot began anew
    np.testing.assert_array_equal(evaluate(backend, 1, N_TOKENS), expected[1:])


def test_batch_at_a_lost_position_is_refused(open_model: Open) -> None:
    backend = open_model("gemma2")
    evaluate(backend, 0, N_TOKENS)
    with pytest.raises(RequestError, match="slot 0 cannot continue at position 100, whose state was not kept"):
        evaluate(backend, 100, 110)


@pytest.mark.parametrize("name", [*NAMES, "gemma4"])
def test_slot_goes_back_to_its_snapshots(open_model: Open, name: str) -> None:
    backend = open_model(name)
    expected = evaluate(backend, 0, N_TOKENS)
    backend.truncate(0, 0)
    for first, last in ((0, 9), (9, 101), (101, 231), (231, N_TOKENS)):
        evaluate(backend, first, last)
        backend.take_snapshot(0)
    assert backend.snapshots(0) == [9, 101, 231, N_TOKENS]
    evaluate(backend, 390, N_TOKENS, slot=0)

    assert backend.truncate(0, 250) == 231
    np.testing.assert_array_equal(evaluate(backend, 231, N_TOKENS), expected[231:])
    assert backend.truncate(0, 231) == 231
    assert backend.truncate(0, 230) == 101
    np.testing.assert_array_equal(evaluate(backend, 101, N_TOKENS), expected[101:])
    assert backend.truncate(0, 100) == 9
    assert backend.truncate(0, 3) == 3  # the snapshot has all positions, because the text was shorter than a window
    np.testing.assert_array_equal(evaluate(backend, 3, N_TOKENS), expected[3:])


@pytest.mark.parametrize("n", [1, 15, 16, 17, 112, 113, 390, N_TOKENS])
@pytest.mark.parametrize("name", ["gemma3-scaled", "gpt-oss"])
def test_restored_slot_continues_with_identical_logits(open_model: Open, name: str, n: int) -> None:
    backend = open_model(name)
    expected = evaluate(backend, 0, N_TOKENS)
    backend.truncate(0, 0)
    evaluate(backend, 0, min(n, 9))
    backend.take_snapshot(0)
    if n > 9:
        evaluate(backend, 9, n)
    state = backend.save(0, n)
    assert state.nbytes <= backend.state_size(n)

    backend.truncate(0, 0)
    fill_with_nan(backend)
    backend.restore(1, n, state)
    np.testing.assert_array_equal(backend.save(1, n), state)
    if n < N_TOKENS:
        np.testing.assert_array_equal(evaluate(backend, n, N_TOKENS, slot=1), expected[n:])
    if n > 9:
        assert backend.truncate(1, min(n - 1, 30)) == 9
        np.testing.assert_array_equal(evaluate(backend, 9, N_TOKENS, slot=1), expected[9:])


def test_saved_state_has_windows_only(open_model: Open) -> None:
    whole, backend = (open_model("cohere2", swa_full=full) for full in (True, False))
    for one in (whole, backend):
        evaluate(one, 0, N_TOKENS)
    n_rings, n_caches = len(backend._kv.rings), len(backend._kv.caches)
    assert 0 < n_rings < n_caches
    row_bytes = whole.save(0, 16).nbytes / n_caches / 16  # keys and values of a position
    windows = backend.save(0, N_TOKENS).nbytes - (n_caches - n_rings) * N_TOKENS * row_bytes
    assert 15 * n_rings * row_bytes <= windows <= 24 * n_rings * row_bytes


def test_position_in_the_ring_can_be_saved(open_model: Open) -> None:
    backend = open_model("gemma2")
    expected = evaluate(backend, 0, N_TOKENS)
    backend.restore(1, 350, backend.save(0, 350))
    np.testing.assert_array_equal(evaluate(backend, 350, N_TOKENS, slot=1), expected[350:])
    with pytest.raises(LlamafwError, match="the state of 286 positions of slot 0 was not kept"):
        backend.save(0, 286)


@pytest.mark.parametrize("change", ["shorter", "longer", "wrong position", "empty"])
def test_damaged_state_is_refused(open_model: Open, change: str) -> None:
    """The slot keeps what it had."""
    backend = open_model("gemma2")
    expected = evaluate(backend, 0, N_TOKENS)
    backend.truncate(0, 390)
    state = backend.save(0, 390)
    n_cached = backend._kv.state_size(390)
    damaged = {
        "shorter": state[:-1],
        "longer": np.append(state, np.uint8(0)),
        "wrong position": np.concatenate([state[: n_cached + 8], state[n_cached + 8 :][::-1]]),
        "empty": state[:n_cached],
    }[change]
    with pytest.raises(LlamafwError):
        backend.restore(0, 390, damaged)
    np.testing.assert_array_equal(evaluate(backend, 390, N_TOKENS), expected[390:])


def test_recurrent_layers_and_windows_go_back_together(open_model: Open) -> None:
    change = with_windows((16, "sliding"))
    backend = open_model("qwen35", change=change)
    assert backend._states.slot_bytes > 0
    assert backend._kv.rings
    expected = all_logits(open_model, "qwen35", change=change)
    np.testing.assert_array_equal(evaluate(backend, 0, 101), expected[:101])
    backend.take_snapshot(0)
    np.testing.assert_array_equal(evaluate(backend, 101, N_TOKENS), expected[101:])

    assert backend.truncate(0, 397) == 397  # within the last block of recurrent layers
    assert backend.truncate(0, 390) == 101
    np.testing.assert_array_equal(evaluate(backend, 101, N_TOKENS), expected[101:])
    backend.restore(1, 101, backend.save(0, 101))
    np.testing.assert_array_equal(evaluate(backend, 101, N_TOKENS, slot=1), expected[101:])


@pytest.mark.parametrize("window", [1, 2, 16, 17, 100])
def test_size_of_a_copied_window_is_known(window: int) -> None:
    """`n_bytes` is the size of what `copy` returns, and `max_bytes` is not less."""
    n_blocks = ring_size(window, 1, 1000) // 16
    words, scales = (np.ones((1, 2, n_blocks, n, 16), kind) for n, kind in ((4, np.uint32), (1, np.uint16)))
    table, rows = ring_table(1, 16 * n_blocks, 1024), np.ones((1, 2, 16 * n_blocks, 8), np.uint8)
    ring = Ring(CacheArrays(table, words, scales, rows, scales), window)
    largest = 0
    for n in range(300):
        copied = ring.copy(0, n)
        largest = max(largest, copied.nbytes)
        assert copied.nbytes == ring.n_bytes(n)
        assert largest <= ring.max_bytes(n)
