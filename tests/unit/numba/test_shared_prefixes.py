"""Slots that share a prefix compute the same bits as slots that share nothing, whatever the others do meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import all_checkpoints, write
from llamafw import Floats, LlamafwError
from llamafw.testing.batches import batch, logits
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_backends.numba_cpu.pages import PAGE
from support.numba_backend import cached_keys, fill_with_nan, open_backend

N_CTX, N_PREFIX, N_TOKENS = 320, 150, 260  # the prefix ends in the middle of a page
NAMES = ("llama", "gemma2", "gemma3-scaled", "gpt-oss", "deepseek2-v2", "qwen35", "nemotron_h", "lfm2")
TYPES = ("f16", "f32", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")

Open = Callable[..., Any]


def chat(number: int) -> list[int]:
    """Return the tokens of a chat that begins like all others."""
    prefix = [(7 * i * i + 3 * i + 1) % 100 for i in range(N_PREFIX)]
    return prefix + [(5 * i * i + number * i + number) % 100 for i in range(N_TOKENS - N_PREFIX)]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    found = {one.name: write(one, folder / f"{one.name}.gguf") for one in all_checkpoints() if one.name in NAMES}
    sizes: dict[str, Any] = {"n_embd": 128, "n_head": 4, "n_head_kv": 2, "n_embd_head": 32, "n_layer": 2}
    found["tiny"] = write_tiny_gguf(folder / "tiny.gguf", types="Q8_0", **sizes)
    assert found.keys() == {*NAMES, "tiny"}
    return found


@pytest.fixture
def open_model(paths: dict[str, Path]) -> Iterator[Open]:
    """Return a function that opens a backend with one of the models; memory that was never written is NaN."""
    opened = []

    def open_one(name: str, **options: Any) -> Any:
        opened.append(open_backend(paths[name], **{"n_ctx": N_CTX, "n_slots": 4, "n_ubatch": 32} | options))
        backend = opened[-1].__enter__()
        fill_with_nan(backend)
        return backend

    yield open_one
    for one in opened:
        one.__exit__(None, None, None)


def evaluate(backend: Any, slot: int, tokens: list[int], first: int, last: int) -> Floats:
    """Return the logits of the tokens ``first`` … ``last - 1``."""
    rows: Floats = backend.forward(batch((slot, first, tokens[first:last]))).copy()
    return rows


def check_sharing(open_model: Open, name: str, **options: Any) -> None:
    """Share a prefix of a slot that goes on, share it once more, and cut and reuse its first owner."""
    alone = open_model(name, n_slots=1, **options)
    expected = []
    for number in range(4):
        expected.append(logits(alone, chat(number)))
        alone.truncate(0, 0)

    backend = open_model(name, n_threads=2, **options)
    np.testing.assert_array_equal(evaluate(backend, 0, chat(0), 0, N_PREFIX), expected[0][:N_PREFIX])
    if not backend.can_cut:
        backend.take_snapshot(0)
    evaluate(backend, 0, chat(0), N_PREFIX, 170)
    backend.share_prefix(0, 1, N_PREFIX)
    n_pages = N_PREFIX // PAGE
    counts = backend.page_counts()
    assert (counts.n_used, counts.n_shared) == (3 + 1, n_pages)  # the second slot has a copy of the last page

    # both go on together, one token each and several
    for first, last in ((N_PREFIX, N_PREFIX + 1), (N_PREFIX + 1, N_PREFIX + 70)):
        parts = (0, first + 20, chat(0)[first + 20 : last + 20]), (1, first, chat(1)[first:last])
        rows = backend.forward(batch(*parts))
        whole = np.concatenate([expected[0][first + 20 : last + 20], expected[1][first:last]])
        np.testing.assert_array_equal(rows, whole)

    # slot 1 gives the prefix to slot 2, and slot 0 takes another text
    if backend.can_cut:
        backend.share_prefix(1, 2, N_PREFIX)
        assert backend.page_counts().n_shared == n_pages
        np.testing.assert_array_equal(evaluate(backend, 2, chat(2), N_PREFIX, N_TOKENS), expected[2][N_PREFIX:])
    backend.truncate(0, 0)
    np.testing.assert_array_equal(evaluate(backend, 0, chat(3)[100:], 0, 100), logits(alone, chat(3)[100:200]))
    last_tokens = evaluate(backend, 1, chat(1), N_PREFIX + 70, N_TOKENS)
    np.testing.assert_array_equal(last_tokens, expected[1][N_PREFIX + 70 :])

    for slot in range(backend.n_slots):
        backend.truncate(slot, 0)
    assert backend.page_counts().n_used == 0


@pytest.mark.parametrize("name", NAMES)
def test_bits_are_those_of_slots_that_share_nothing(open_model: Open, name: str) -> None:
    check_sharing(open_model, name)


@pytest.mark.parametrize("kind", TYPES)
def test_caches_of_all_types_can_be_shared(open_model: Open, kind: str) -> None:
    check_sharing(open_model, "tiny", cache_type_k=kind, cache_type_v=kind)


def test_whole_caches_of_layers_with_windows_are_shared(open_model: Open) -> None:
    check_sharing(open_model, "gemma2", swa_full=True)


@pytest.mark.parametrize("n", [1, 15, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, N_TOKENS])
def test_prefixes_of_any_length_can_be_shared(open_model: Open, n: int) -> None:
    backend = open_model("tiny")
    logits(backend, [5, *chat(0)])
    expected = backend.forward(batch((0, N_TOKENS + 1, [9]))).copy()
    backend.share_prefix(0, 1, n)
    np.testing.assert_array_equal(backend.save(1, n), backend.save(0, n))
    rest = [5, *chat(0), 9]
    np.testing.assert_array_equal(evaluate(backend, 1, rest, n, len(rest))[-1:], expected)


@pytest.mark.parametrize(("first", "n"), [(0, 3), (10, 70), (70, 1), (PAGE, PAGE), (200, 60)])
def test_shifting_a_slot_does_not_change_others(open_model: Open, first: int, n: int) -> None:
    backend = open_model("tiny", cache_type_k="f32", cache_type_v="f32")
    logits(backend, chat(0))
    state = backend.save(0, N_TOKENS)
    backend.share_prefix(0, 1, N_TOKENS)
    backend.shift(1, first, n)
    np.testing.assert_array_equal(backend.save(0, N_TOKENS), state)
    backend.restore(2, N_TOKENS, state)
    backend.shift(2, first, n)
    np.testing.assert_array_equal(backend.save(1, N_TOKENS - n), backend.save(2, N_TOKENS - n))
    keys = cached_keys(backend)[:, :, : N_TOKENS - n]
    np.testing.assert_array_equal(keys[1], keys[2])


def test_truncated_slot_does_not_overwrite_what_others_share(open_model: Open) -> None:
    backend = open_model("tiny")
    expected = logits(backend, chat(0))
    backend.share_prefix(0, 1, 200)
    backend.truncate(0, 100)  # within a shared page
    evaluate(backend, 0, chat(0)[:100] + [1] * 30, 100, 130)
    backend.forward(batch((0, 50, [3] * 5)))  # a batch may continue a slot before its end
    np.testing.assert_array_equal(evaluate(backend, 1, chat(0), 200, N_TOKENS), expected[200:])


def test_slots_share_a_long_prefix_once(open_model: Open) -> None:
    backend = open_model("tiny", n_slots=16, n_ctx=4 * N_CTX)
    prefix = [(7 * i * i + 3 * i + 1) % 100 for i in range(1000)]
    logits(backend, prefix)
    for slot in range(1, 16):
        backend.share_prefix(0, slot, 1000)
    tokens = [(slot, 1000, [slot]) for slot in range(16)]
    backend.forward(batch(*tokens))
    counts = backend.page_counts()
    assert (counts.n_positions, counts.n_shared) == (PAGE, 1000 // PAGE)
    assert counts.n_used == counts.n_touched == 1000 // PAGE + 16
    assert counts.n_total == 16 * 4 * N_CTX // PAGE


@pytest.mark.parametrize(
    ("source", "target", "n"), [(0, 0, 5), (0, 1, 11), (0, 1, 0), (0, 1, -1), (4, 0, 1), (0, 4, 1)]
)
def test_what_cannot_be_shared_is_refused(open_model: Open, source: int, target: int, n: int) -> None:
    backend = open_model("tiny")
    logits(backend, chat(0)[:10])
    before = logits(backend, chat(1)[:10], slot=1)
    with pytest.raises(LlamafwError, match=f"slot {target} cannot get {n} positions|slot 4 does not exist"):
        backend.share_prefix(source, target, n)
    backend.truncate(1, 9)
    np.testing.assert_array_equal(evaluate(backend, 1, chat(1), 9, 10), before[9:])


def test_recurrent_slots_share_at_snapshots_only(open_model: Open) -> None:
    backend = open_model("qwen35")
    evaluate(backend, 0, chat(0), 0, 40)
    backend.take_snapshot(0)
    evaluate(backend, 0, chat(0), 40, 80)
    with pytest.raises(LlamafwError, match="was not kept"):
        backend.share_prefix(0, 1, 50)
    backend.share_prefix(0, 1, 40)
    assert backend.snapshots(1) in ([], [40])
