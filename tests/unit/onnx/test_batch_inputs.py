"""Batches are divided into parts of limited size and little padding, and their results go back to their places."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import Batch
from llamafw.testing.batches import batch
from llamafw.testing.graphs import llama
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_backends.onnx.backend import OnnxBackend
from llamafw_backends.onnx.batch_inputs import MAX_PADDING, MAX_SLOTS, Part, divide
from support.onnx_nodes import F32, evaluate, open_context


def make_batch(lengths: dict[int, int]) -> Batch:
    """Return a batch with tokens of several slots; the last one of each is wanted."""
    ends = np.cumsum(list(lengths.values()))
    return batch(*((slot, 3, list(range(n))) for slot, n in lengths.items()), outputs=ends - 1)


def slots_of(parts: list[Part]) -> list[set[int]]:
    return [set(part.slots.tolist()) for part in parts]


def test_similar_lengths_stay_together() -> None:
    assert slots_of(divide(make_batch({0: 100, 1: 90, 2: 80}), 512)) == [{0, 1, 2}]


def test_long_prompts_are_separate_from_single_tokens() -> None:
    lengths = {0: 300, **dict.fromkeys(range(1, 12), 1)}
    assert slots_of(divide(make_batch(lengths), 512)) == [set(range(1, 12)), {0}]


def test_distant_slots_are_separate() -> None:
    assert slots_of(divide(make_batch({0: 30, 40: 30}), 512)) == [{0}, {40}]


def test_single_tokens_stay_together() -> None:
    assert slots_of(divide(make_batch({0: 1, 400: 1, 7: 1}), 512)) == [{0, 7, 400}]


def test_many_slots_are_divided_if_nothing_is_padded() -> None:
    whole = make_batch({**dict.fromkeys(range(300), 1), 300: 50})
    parts = divide(whole, 512, pads=False)
    assert [len(slots) for slots in slots_of(parts)] == [MAX_SLOTS, 301 - MAX_SLOTS]
    assert sorted(place for part in parts for place in part.places) == list(range(301))
    assert divide(make_batch({0: 300, 1: 1}), 512, pads=False)[0].slot_range == (0, 2)


def test_many_slots_are_divided_in_models_that_also_pad() -> None:
    """Llama 4 has PagedAttention in some layers, and standard operators in others."""
    parts = divide(make_batch(dict.fromkeys(range(300), 1)), 512, pads=True)
    assert [len(slots) for slots in slots_of(parts)] == [MAX_SLOTS, 300 - MAX_SLOTS]


@pytest.mark.parametrize("size", [7, 64, 512])
def test_parts_have_each_token_and_output_once(size: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        slots = rng.permutation(30)[: rng.integers(1, 9)].tolist()
        whole = make_batch({slot: int(rng.choice([1, 2, 40, 200])) for slot in slots})
        parts = divide(whole, size)
        found = sorted((s, p) for part in parts for s, p in zip(part.slots, part.positions, strict=True))
        assert found == sorted(zip(whole.slots, whole.positions, strict=True))
        assert sorted(place for part in parts for place in part.places) == list(range(len(whole.outputs)))
        for part in parts:
            assert part.n_padding <= MAX_PADDING
            assert len(part.tokens) <= size
            np.testing.assert_array_equal(part.slots[part.rows], whole.slots[whole.outputs[part.places]])
            np.testing.assert_array_equal(part.positions[part.rows], whole.positions[whole.outputs[part.places]])


def test_tokens_of_a_slot_stay_in_order() -> None:
    parts = divide(make_batch({5: 200, 0: 1, 9: 300}), 64)
    for slot in (5, 0, 9):
        positions = [p for part in parts for s, p in zip(part.slots, part.positions, strict=True) if s == slot]
        assert all(later == earlier + 1 for earlier, later in pairwise(positions))


@pytest.mark.parametrize("order", [(0, 1, 6), (6, 0, 1), (6, 3)])
def test_logits_of_divided_batches_match_float64(order: tuple[int, ...], tmp_path: Path) -> None:
    """Slots that are computed apart write to their own states only."""
    options: dict[str, Any] = {"n_slots": 8, "n_ubatch": 512, **F32}
    context = open_context(write_tiny_gguf(tmp_path / "model.gguf"), llama, **options)
    texts = {slot: [(5 * i + slot) % 300 for i in range(200 if slot == 6 else 9)] for slot in order}
    expected = {slot: evaluate(context, text) for slot, text in texts.items()}
    backend = OnnxBackend(context)
    backend.forward(batch(*((slot, 0, text[:4]) for slot, text in texts.items()), outputs=[]))
    runs = [(slot, 4, text[4:-1]) for slot, text in texts.items()]
    assert len(divide(batch(*runs), 512)) > 1
    for first, last in ((4, -1), (-1, None)):
        runs = [(slot, first % len(text), text[first:last]) for slot, text in texts.items()]
        actual = np.split(backend.forward(batch(*runs)), np.cumsum([len(run) for _, _, run in runs])[:-1])
        for (slot, start, run), rows in zip(runs, actual, strict=True):
            wanted = expected[slot][start : start + len(run)]
            assert np.abs(rows - wanted).max() < 1e-5 * np.abs(wanted).max()
    backend.close()
